/* SPDX-License-Identifier: GPL-2.0 */
/* What a busy node does, many times over: storms exec|connect|open COUNT. Prints the elapsed nanoseconds. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <signal.h>

static void storm_exec(long count)
{
	while (count--) {
		pid_t child = vfork();

		if (child == 0) {
			execl("/bin/true", "true", NULL);
			_exit(127);
		}
		if (child < 0 || waitpid(child, NULL, 0) < 0)
			err(1, "vfork");
	}
}

static int listener;
static struct sockaddr_in address = {.sin_family = AF_INET};

static pid_t serve(void)
{
	socklen_t length = sizeof(address);
	pid_t server;

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	listener = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 4096))
		err(1, "listen");
	getsockname(listener, (struct sockaddr *)&address, &length);
	server = fork();
	if (server == 0) {
		for (;;)
			close(accept(listener, NULL, NULL));
	}
	return server;
}

static void storm_connect(long count)
{
	/* RST instead of TIME_WAIT, so that the ports last */
	struct linger linger = {.l_onoff = 1, .l_linger = 0};

	while (count--) {
		int sock = socket(AF_INET, SOCK_STREAM, 0);

		setsockopt(sock, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
		if (connect(sock, (struct sockaddr *)&address, sizeof(address)))
			err(1, "connect");
		close(sock);
	}
}

static void storm_open(long count)
{
	while (count--) {
		int file = open("/etc/passwd", O_RDONLY | O_CLOEXEC);

		if (file < 0)
			err(1, "open");
		close(file);
	}
}

int main(int argc, char **argv)
{
	struct timespec begin, end;
	pid_t server = 0;
	long count;

	if (argc != 3)
		errx(2, "usage: storms exec|connect|open COUNT");
	count = atol(argv[2]);
	if (!strcmp(argv[1], "connect"))
		server = serve();
	clock_gettime(CLOCK_MONOTONIC, &begin);
	if (!strcmp(argv[1], "exec"))
		storm_exec(count);
	else if (!strcmp(argv[1], "connect"))
		storm_connect(count);
	else
		storm_open(count);
	clock_gettime(CLOCK_MONOTONIC, &end);
	if (server) {
		kill(server, SIGKILL);
		waitpid(server, NULL, 0);
	}
	printf("%lld\n", (end.tv_sec - begin.tv_sec) * 1000000000LL + end.tv_nsec - begin.tv_nsec);
	return 0;
}
