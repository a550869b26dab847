/* SPDX-License-Identifier: GPL-2.0 */
/* What a busy node does, many times over: storms exec|connect|open|http|bulk COUNT. Prints the elapsed nanoseconds. */
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

static void answer(int client)
{
	static char buffer[256 * 1024];
	ssize_t length = read(client, buffer, sizeof(buffer));

	if (length > 0 && buffer[0] == 'G') {
		static const char reply[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

		if (write(client, reply, sizeof(reply) - 1) < 0)
			warn("write");
	}
	while (length > 0)
		length = read(client, buffer, sizeof(buffer));
}

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
		for (;;) {
			int client = accept(listener, NULL, NULL);

			answer(client);
			close(client);
		}
	}
	return server;
}

/* RST instead of TIME_WAIT, so that the ports last */
static int dial(void)
{
	struct linger linger = {.l_onoff = 1, .l_linger = 0};
	int sock = socket(AF_INET, SOCK_STREAM, 0);

	setsockopt(sock, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	if (connect(sock, (struct sockaddr *)&address, sizeof(address)))
		err(1, "connect");
	return sock;
}

static void storm_connect(long count)
{
	while (count--)
		close(dial());
}

/* Each exchange asks for another path, so that none repeats another. */
static void storm_http(long count)
{
	char buffer[512];

	while (count--) {
		int sock = dial();
		int length = snprintf(buffer, sizeof(buffer),
				      "GET /%08ld/a/short/page.html HTTP/1.1\r\nHost: localhost\r\nUser-Agent: storm\r\n\r\n",
				      count);

		if (write(sock, buffer, length) != length || read(sock, buffer, sizeof(buffer)) <= 0)
			err(1, "exchange");
		close(sock);
	}
}

/* COUNT mebibytes over one connection. */
static void storm_bulk(long count)
{
	static char buffer[1024 * 1024];
	int sock = dial();

	buffer[0] = 'B';
	while (count--) {
		size_t sent = 0;

		while (sent < sizeof(buffer)) {
			ssize_t length = write(sock, buffer + sent, sizeof(buffer) - sent);

			if (length < 0)
				err(1, "write");
			sent += length;
		}
	}
	close(sock);
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
		errx(2, "usage: storms exec|connect|open|http|bulk COUNT");
	count = atol(argv[2]);
	if (strcmp(argv[1], "exec") && strcmp(argv[1], "open"))
		server = serve();
	clock_gettime(CLOCK_MONOTONIC, &begin);
	if (!strcmp(argv[1], "exec"))
		storm_exec(count);
	else if (!strcmp(argv[1], "connect"))
		storm_connect(count);
	else if (!strcmp(argv[1], "http"))
		storm_http(count);
	else if (!strcmp(argv[1], "bulk"))
		storm_bulk(count);
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
