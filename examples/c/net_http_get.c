/*
 * An HTTP request through a tunnel: without root, without an interface, without a change to the system.
 *
 *     cargo build --release -p wg-embed-capi --features netstack
 *     cc -std=c99 -O2 -Iinclude examples/c/net_http_get.c -o net_http_get \
 *         -Ltarget/release -lwg_embed -Wl,-rpath,target/release
 *     ./net_http_get wg0.conf http://example.com/     a .conf file as for wg-quick(8)
 *     ./net_http_get                                  without a file: a tunnel to another one in this program
 *
 * The addresses, DNS servers and the MTU of the file are those of the userspace network; names are looked up through
 * the tunnel.
 */
#define _POSIX_C_SOURCE 200809L
#include "wg_embed.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void fail(const char *what) {
  fprintf(stderr, "%s: %s\n", what, wg_last_error());
  exit(1);
}

/* Turns a .conf file into a tunnel with a userspace network. */
static int32_t turn_on(const char *conf, size_t len) {
  wg_net_options_t net = WG_NET_OPTIONS_INIT;
  wg_options_t options = WG_OPTIONS_INIT;
  char *uapi, *settings;
  int32_t tunnel;
  if (wg_conf_parse(conf, len, &uapi, &settings) != WG_OK) fail("the .conf file");
  net.settings = settings; /* Address, DNS and MTU, as they are in the file */
  options.net = &net;
  options.resolve = wg_resolve_system; /* for the endpoint, outside of the tunnel */
  tunnel = wg_turn_on_with(&options, uapi);
  if (tunnel < 0) fail("wg_turn_on_with");
  wg_free(uapi); /* which wipes it */
  wg_free(settings);
  return tunnel;
}

static char file[1 << 20];

static int32_t turn_on_file(const char *path) {
  FILE *from = fopen(path, "rb");
  volatile char *secret = file;
  int32_t tunnel;
  size_t len;
  if (from == NULL || setvbuf(from, NULL, _IONBF, 0) != 0) {
    perror(path);
    exit(1);
  }
  len = fread(file, 1, sizeof file, from);
  fclose(from);
  tunnel = turn_on(file, len);
  while (len > 0) secret[--len] = 0;
  return tunnel;
}

/* The other side, if there is no file: a tunnel with a server inside it. Its keys are no secret. */
struct server {
  int32_t tunnel, listener;
};

static void *serve(void *argument) {
  const struct server *server = argument;
  static const char answer[] = "HTTP/1.0 200 OK\r\nContent-Length: 24\r\n\r\nthrough a tunnel, no root";
  char request[1024];
  int32_t fd;
  if (wg_net_accept(server->tunnel, server->listener, -1, &fd, NULL) != WG_OK) fail("wg_net_accept");
  if (read(fd, request, sizeof request) > 0 && write(fd, answer, sizeof answer - 1) < 0) perror("write");
  shutdown(fd, SHUT_WR);
  while (read(fd, request, sizeof request) > 0) continue; /* its end: what is unread would reset the connection */
  close(fd);
  return NULL;
}

static int32_t turn_both_on(struct server *server) {
  static const char theirs[] = "[Interface]\nPrivateKey = QEJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=\n"
                             "Address = 10.0.0.1\n"
                               "[Peer]\nPublicKey = ehpOcJvwhaxJSroEabmx7aCrH3ixaqu3n/7akGI+hSI=\n"
                             "AllowedIPs = 10.0.0.2/32\n";
  char ours[512];
  server->tunnel = turn_on(theirs, sizeof theirs - 1);
  if (wg_net_listen(server->tunnel, "tcp", "10.0.0.1:80", 0, &server->listener) != WG_OK) fail("wg_net_listen");
  snprintf(ours, sizeof ours,
           "[Interface]\nPrivateKey = QEFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=\nAddress = 10.0.0.2/24\n"
           "[Peer]\nPublicKey = EyxEK+AQ+9V+cmAzKKp25x/MwVA6riGTJ9FNnJmT9HI=\nEndpoint = 127.0.0.1:%d\n"
           "AllowedIPs = 0.0.0.0/0\n",
           wg_listen_port(server->tunnel));
  return turn_on(ours, strlen(ours));
}

/* Prints what is behind a URL of the form http://host[:port]/path. */
static void get(int32_t tunnel, const char *url) {
  char host[256], target[300], request[1024], bytes[4096];
  const char *begin = strncmp(url, "http://", 7) == 0 ? url + 7 : url, *path = strchr(begin, '/');
  size_t len = path != NULL ? (size_t)(path - begin) : strlen(begin), sent = 0;
  ssize_t got;
  int32_t fd;
  if (len >= sizeof host) fail("the URL is too long");
  memcpy(host, begin, len);
  host[len] = '\0';
  snprintf(target, sizeof target, "%s%s", host, strchr(host, ':') != NULL ? "" : ":80");
  if (wg_net_dial(tunnel, "tcp", target, 30000, &fd) != WG_OK) fail(target);
  /* From here on it is a descriptor like that of any connection. */
  snprintf(request, sizeof request, "GET %s HTTP/1.0\r\nHost: %s\r\n\r\n", path != NULL ? path : "/", host);
  len = strlen(request);
  while (sent < len && (got = send(fd, request + sent, len - sent, 0)) > 0) sent += (size_t)got;
  while ((got = read(fd, bytes, sizeof bytes)) > 0) fwrite(bytes, 1, (size_t)got, stdout);
  if (got < 0) perror("read");
  printf("\n");
  close(fd);
}

int main(int argc, char **argv) {
  struct server server = {0, -1};
  int32_t tunnel = argc > 1 ? turn_on_file(argv[1]) : turn_both_on(&server);
  pthread_t thread;
  if (server.tunnel > 0 && pthread_create(&thread, NULL, serve, &server) != 0) return 1;
  get(tunnel, argc > 2 ? argv[2] : "http://10.0.0.1/");
  if (server.tunnel > 0) {
    pthread_join(thread, NULL);
    close(server.listener);
    wg_turn_off(server.tunnel);
  }
  return wg_turn_off(tunnel) != WG_OK;
}
