/* What the kill switch's benchmark kills: `switch_bench PROCS_FILE sleep COUNT` (processes that sleep) or
 * `switch_bench PROCS_FILE bomb LIMIT` (a fork bomb at its limit). Says "ready" once all are there. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <signal.h>

#define NOBODY 54321 /* root has no limit on processes */

static void bomb(int limit)
{
	struct rlimit most = {limit, limit};

	signal(SIGCHLD, SIG_IGN);
	if (setrlimit(RLIMIT_NPROC, &most) || setgid(NOBODY) || setuid(NOBODY))
		exit(1);
	for (int made = 1; made < limit; made++)
		if (fork() == 0)
			for (;;)
				fork();
}

static void sleepers(int count)
{
	for (int made = 1; made < count; made++)
		if (fork() == 0)
			for (;;)
				pause();
}

int main(int argc, char **argv)
{
	FILE *procs = argc == 4 ? fopen(argv[1], "w") : NULL;

	if (!procs || fputs("0", procs) < 0 || fclose(procs))
		return 1;
	if (strcmp(argv[2], "bomb") == 0)
		bomb(atoi(argv[3]));
	else
		sleepers(atoi(argv[3]));
	puts("ready");
	fflush(stdout);
	for (;;)
		pause();
}
