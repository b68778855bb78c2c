/*
 * UDP ping-pong with wg_udp_*: batches of datagrams there and back, without a tunnel.
 *
 *     udp_pingpong                      both ends in this process, over IPv4 and IPv6 on loopback
 *     udp_pingpong serve PORT           answers until its standard input ends
 *     udp_pingpong ping HOST:PORT       asks such a server; HOST is an address, an IPv6 one in square brackets
 *
 * To build it, after `cargo build --release`:
 *
 *     cc -Iinclude examples/c/udp_pingpong.c -o udp_pingpong -pthread -Ltarget/release -lwg_embed \
 *         -Wl,-rpath,target/release
 */
#define _POSIX_C_SOURCE 200809L
#include "wg_embed.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BATCH = 64, SIZE = 1200, ROUNDS = 200, PATIENCE_MS = 1000 };

/* Says what went wrong, and ends. */
static void fail(const char *what) {
  fprintf(stderr, "%s: %s\n", what, wg_last_error());
  exit(1);
}

/* Datagrams and what they point to: memory of ours, used again and again. */
struct batch {
  wg_datagram_t datagrams[BATCH];
  wg_endpoint_t peers[BATCH];
  unsigned char data[BATCH][SIZE];
};

static struct batch *new_batch(void) {
  struct batch *batch = calloc(1, sizeof *batch);
  int i;
  if (batch == NULL) {
    perror("udp_pingpong");
    exit(1);
  }
  for (i = 0; i < BATCH; i++) {
    batch->datagrams[i].data = batch->data[i];
    batch->datagrams[i].capacity = SIZE;
    batch->datagrams[i].peer = &batch->peers[i];
  }
  return batch;
}

struct echo {
  int32_t bind;
  uint32_t family;
};

/* One thread for each family: everything goes back to where it came from, from the address that it was sent to. */
static void *echo(void *argument) {
  const struct echo *echo = argument;
  struct batch *batch = new_batch();
  for (;;) {
    int32_t count = wg_udp_recv(echo->bind, echo->family, batch->datagrams, BATCH, -1);
    if (count < 0) break; /* closed, or there is no such family on this host */
    if (wg_udp_send(echo->bind, batch->datagrams, (size_t)count, NULL) < 0) break;
  }
  free(batch);
  return NULL;
}

struct server {
  struct echo each[2];
  pthread_t threads[2];
};

static void start_server(struct server *server, uint16_t *port) {
  int32_t bind = wg_udp_open(NULL, port);
  int i;
  if (bind < 0) fail("cannot open the server's port");
  for (i = 0; i < 2; i++) {
    server->each[i].bind = bind;
    server->each[i].family = i == 0 ? WG_IPV4 : WG_IPV6;
    if (pthread_create(&server->threads[i], NULL, echo, &server->each[i]) != 0) {
      perror("pthread_create");
      exit(1);
    }
  }
}

static void stop_server(struct server *server) {
  int i;
  wg_udp_close(server->each[0].bind); /* both threads return from wg_udp_recv() */
  for (i = 0; i < 2; i++) pthread_join(server->threads[i], NULL);
}

/* Sends a batch, waits for its answers, and again. What the network loses is not sent again. */
static void ping(const char *text) {
  wg_endpoint_t server;
  struct batch *out = new_batch(), *in = new_batch();
  struct timespec begin, end;
  unsigned long sent = 0, answered = 0, changed = 0;
  double seconds;
  int32_t bind;
  int round, i;
  if (wg_endpoint_parse(text, &server) != WG_OK) fail(text);
  if ((bind = wg_udp_open(NULL, NULL)) < 0) fail("cannot open the client's port");
  clock_gettime(CLOCK_MONOTONIC, &begin);
  for (round = 0; round < ROUNDS; round++) {
    int32_t left;
    for (i = 0; i < BATCH; i++) {
      memset(out->data[i], round + i, SIZE);
      out->datagrams[i].len = SIZE;
      out->datagrams[i].peer = &server; /* one endpoint for all of them: they can leave together */
    }
    if ((left = wg_udp_send(bind, out->datagrams, BATCH, NULL)) < 0) fail("cannot send");
    sent += (unsigned long)left;
    while (left > 0) {
      int32_t count = wg_udp_recv(bind, server.family, in->datagrams, BATCH, PATIENCE_MS);
      if (count < 0) fail("cannot receive");
      if (count == 0) break;
      for (i = 0; i < count; i++) {
        const unsigned char *data = in->data[i];
        if (in->datagrams[i].len != SIZE || memcmp(data, data + 1, SIZE - 1) != 0) changed++;
      }
      answered += (unsigned long)count;
      left -= count;
    }
  }
  clock_gettime(CLOCK_MONOTONIC, &end);
  seconds = (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9;
  printf("%s: %lu datagrams sent, %lu answered, %lu changed on their way, %.0f a second\n", text, sent, answered, changed,
         (double)answered / seconds);
  wg_udp_close(bind);
  free(out);
  free(in);
  if (answered == 0 || changed != 0) exit(1);
}

int main(int argc, char **argv) {
  struct server server;
  uint16_t port = 0;
  char text[WG_ENDPOINT_TEXT_LEN];
  if (argc == 1) {
    start_server(&server, &port);
    snprintf(text, sizeof text, "127.0.0.1:%u", (unsigned)port);
    ping(text);
    if (wg_udp_peek_fd(server.each[0].bind, WG_IPV6) >= 0) {
      snprintf(text, sizeof text, "[::1]:%u", (unsigned)port);
      ping(text);
    }
    stop_server(&server);
  } else if (argc == 3 && strcmp(argv[1], "serve") == 0) {
    port = (uint16_t)atoi(argv[2]);
    start_server(&server, &port);
    printf("answering on port %u\n", (unsigned)port);
    fflush(stdout);
    while (getchar() != EOF) continue;
    stop_server(&server);
  } else if (argc == 3 && strcmp(argv[1], "ping") == 0) {
    ping(argv[2]);
  } else {
    fprintf(stderr, "usage: %s [serve PORT | ping HOST:PORT]\n", argv[0]);
    return 2;
  }
  return 0;
}
