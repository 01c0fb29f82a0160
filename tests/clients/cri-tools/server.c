/* Stands for the web servers in the images of the conformance suite: writes its process id to
 * /var/run/nginx.pid, shows "master process" in its command line as nginx does, writes "httpd" to its
 * log and answers every connection on a port (default 80) with a small page. */
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void end(int number)
{
	(void)number;
	_exit(0);
}

int main(int count, char **words)
{
	static const char page[] = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\nWelcome\n";
	if (count < 3) {
		execl("/proc/self/exe", words[0], count > 1 ? words[1] : "80", "master process", (char *)NULL);
		perror("exec");
		return 1;
	}
	signal(SIGTERM, end);
	signal(SIGQUIT, end);
	signal(SIGPIPE, SIG_IGN);
	int server = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0), off = 0, on = 1;
	struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons((unsigned short)atoi(words[1]))};
	setsockopt(server, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
	setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(server, (struct sockaddr *)&address, sizeof address) || listen(server, 64)) {
		perror("listen");
		return 1;
	}
	FILE *file = fopen("/var/run/nginx.pid", "w");
	if (file) {
		fprintf(file, "%d\n", getpid());
		fclose(file);
	}
	puts("httpd is ready");
	fflush(stdout);
	for (;;) {
		char request[4096];
		int client = accept(server, NULL, NULL);
		if (client < 0)
			continue;
		if (read(client, request, sizeof request) > 0 && write(client, page, sizeof page - 1) < 0)
			perror("write");
		close(client);
	}
}
