/*
 * An echo server inside a tunnel: TCP connections and datagrams, with one poll() for all of them, without root.
 *
 *     cargo build --release -p wg-embed-capi --features netstack
 *     cc -std=c99 -O2 -Iinclude examples/c/net_echo.c -o net_echo \
 *         -Ltarget/release -lwg_embed -Wl,-rpath,target/release
 *     ./net_echo wg0.conf 7      listens at port 7 of the file's addresses, until it is killed
 *     ./net_echo                 without a file: asks itself, through a tunnel to another one in this program
 */
#define _POSIX_C_SOURCE 200809L
#include "wg_embed.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST = 256 };

static void fail(const char *what) {
  fprintf(stderr, "%s: %s\n", what, wg_last_error());
  exit(1);
}

static int32_t turn_on(const char *conf, size_t len) {
  wg_net_options_t net = WG_NET_OPTIONS_INIT;
  wg_options_t options = WG_OPTIONS_INIT;
  char *uapi, *settings;
  int32_t tunnel;
  if (wg_conf_parse(conf, len, &uapi, &settings) != WG_OK) fail("the .conf file");
  net.settings = settings;
  options.net = &net;
  options.resolve = wg_resolve_system;
  tunnel = wg_turn_on_with(&options, uapi);
  if (tunnel < 0) fail("wg_turn_on_with");
  wg_free(uapi);
  wg_free(settings);
  return tunnel;
}

/* What the server waits for: two listeners, and then connections. A connection of datagrams has those of one source. */
struct server {
  int32_t tunnel;
  struct pollfd polled[MOST];
  nfds_t count;
};

static void listen_at(struct server *server, const char *network, const char *port) {
  char place[32];
  int32_t fd;
  snprintf(place, sizeof place, ":%s", port);
  if (wg_net_listen(server->tunnel, network, place, 0, &fd) != WG_OK) fail("wg_net_listen");
  server->polled[server->count].fd = fd;
  server->polled[server->count++].events = POLLIN;
}

static void accept_one(struct server *server, int listener) {
  char from[WG_ENDPOINT_TEXT_LEN];
  wg_net_connection_t connection;
  int32_t fd;
  if (wg_net_accept(server->tunnel, listener, 0, &fd, &connection) != WG_OK) return;
  if (server->count == MOST) {
    close(fd);
    return;
  }
  wg_endpoint_format(&connection.peer, from);
  printf("%s from %s\n", connection.protocol == WG_NET_TCP ? "a connection" : "datagrams", from);
  server->polled[server->count].fd = fd;
  server->polled[server->count++].events = POLLIN;
}

/* Returns 0 at the end. */
static int echo(int fd) {
  static char bytes[65536];
  ssize_t len = recv(fd, bytes, sizeof bytes, 0), sent = 0;
  if (len <= 0) return 0;
  /* A peer that does not read holds all others up here: a real server would go on when poll() says POLLOUT. */
  while (sent < len) {
    ssize_t once = send(fd, bytes + sent, (size_t)(len - sent), MSG_NOSIGNAL);
    if (once <= 0) return 0;
    sent += once;
  }
  return 1;
}

/* Serves until the tunnel is turned off, which ends the listeners. */
static void *serve(void *argument) {
  struct server *server = argument;
  for (;;) {
    nfds_t i, count = server->count;
    if (poll(server->polled, count, -1) < 0 && errno != EINTR) return NULL;
    if ((server->polled[0].revents & POLLHUP) != 0) break;
    for (i = count; i-- > 0;) {
      if (server->polled[i].revents == 0) continue;
      if (i < 2) {
        accept_one(server, server->polled[i].fd);
      } else if (!echo(server->polled[i].fd)) {
        close(server->polled[i].fd);
        server->polled[i] = server->polled[--server->count];
      }
    }
    fflush(stdout);
  }
  while (server->count > 0) close(server->polled[--server->count].fd);
  return NULL;
}

/* Says something, and hears it again. */
static int ask(int32_t tunnel, const char *network) {
  char answer[64] = {0};
  size_t got = 0, len = strlen("hello, tunnel");
  int32_t fd;
  if (wg_net_dial(tunnel, network, "10.0.0.1:7", 10000, &fd) != WG_OK) fail("wg_net_dial");
  if (send(fd, "hello, tunnel", len, 0) != (ssize_t)len) return 0;
  while (got < len) {
    ssize_t once = recv(fd, answer + got, sizeof answer - 1 - got, 0);
    if (once <= 0) break;
    got += (size_t)once;
  }
  printf("%s: %s\n", network, answer);
  close(fd);
  return strcmp(answer, "hello, tunnel") == 0;
}

/* Keys that are no secret. */
static const char theirs[] = "[Interface]\nPrivateKey = QEJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=\n"
                             "Address = 10.0.0.1\n"
                             "[Peer]\nPublicKey = ehpOcJvwhaxJSroEabmx7aCrH3ixaqu3n/7akGI+hSI=\n"
                             "AllowedIPs = 10.0.0.2/32\n";

int main(int argc, char **argv) {
  static struct server server;
  static char file[1 << 20];
  char ours[512];
  pthread_t thread;
  int32_t client;
  int ok;
  if (argc > 1) {
    FILE *from = fopen(argv[1], "rb");
    if (from == NULL) {
      perror(argv[1]);
      return 1;
    }
    server.tunnel = turn_on(file, fread(file, 1, sizeof file, from));
    fclose(from);
    memset(file, 0, sizeof file);
  } else {
    server.tunnel = turn_on(theirs, sizeof theirs - 1);
  }
  listen_at(&server, "tcp", argc > 2 ? argv[2] : "7");
  listen_at(&server, "udp", argc > 2 ? argv[2] : "7");
  if (argc > 1) {
    serve(&server);
    return 0;
  }
  if (pthread_create(&thread, NULL, serve, &server) != 0) return 1;
  snprintf(ours, sizeof ours,
           "[Interface]\nPrivateKey = QEFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=\nAddress = 10.0.0.2\n"
           "[Peer]\nPublicKey = EyxEK+AQ+9V+cmAzKKp25x/MwVA6riGTJ9FNnJmT9HI=\nEndpoint = 127.0.0.1:%d\n"
           "AllowedIPs = 10.0.0.0/24\n",
           wg_listen_port(server.tunnel));
  client = turn_on(ours, strlen(ours));
  ok = ask(client, "tcp") && ask(client, "udp");
  if (wg_turn_off(client) != WG_OK || wg_turn_off(server.tunnel) != WG_OK) fail("wg_turn_off");
  pthread_join(thread, NULL);
  return !ok;
}
