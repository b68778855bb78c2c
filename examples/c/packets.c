/*
 * A tunnel without a TUN device: the app handles the packets itself, as with a TCP/IP stack of its own, or with the VPN
 * framework of its system.
 *
 *     cargo build --release
 *     cc -std=c99 -O2 -Iinclude examples/c/packets.c -o packets -Ltarget/release -lwg_embed -lpthread \
 *         -Wl,-rpath,target/release
 *     ./packets [COUNT]
 *
 * Two tunnels in one process reach each other over UDP on the loopback address. One pings the other, which answers from
 * inside its callback; then COUNT packets (20000 unless you say otherwise) go one way, as fast as they can.
 */
#define _POSIX_C_SOURCE 200809L
#include "wg_embed.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PACKET_LEN 1420

struct app {
  int32_t handle;
  int host; /* its address is 10.0.0.host */
  pthread_mutex_t lock;
  pthread_cond_t changed;
  long received;
  int has_room;
};

static void fail(const char *what) {
  fprintf(stderr, "%s: %s\n", what, wg_last_error());
  exit(1);
}

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* An ICMP echo request (8) or its answer (0) in IPv4. The checksums are left out: nobody looks at them here. */
static void make_echo(unsigned char *packet, size_t len, int type, int from, int to) {
  memset(packet, 0, len);
  packet[0] = 0x45;
  packet[2] = (unsigned char)(len >> 8);
  packet[3] = (unsigned char)len;
  packet[8] = 64;
  packet[9] = 1;
  packet[12] = packet[16] = 10;
  packet[15] = (unsigned char)from;
  packet[19] = (unsigned char)to;
  packet[20] = (unsigned char)type;
}

/* Packets have come out of the tunnel. This is one of its threads: it must not take long. */
static size_t write_packets(void *user, int32_t handle, const wg_packet_t *packets, size_t count) {
  struct app *app = user;
  size_t i;
  for (i = 0; i < count; i++) {
    const unsigned char *request = packets[i].data;
    if (packets[i].len == 84 && request[20] == 8) {
      unsigned char bytes[84];
      wg_packet_t answer = {bytes, sizeof bytes};
      make_echo(bytes, sizeof bytes, 0, app->host, request[15]);
      wg_tun_inject(handle, &answer, 1, NULL);
    }
  }
  pthread_mutex_lock(&app->lock);
  app->received += (long)count;
  pthread_cond_signal(&app->changed);
  pthread_mutex_unlock(&app->lock);
  return count;
}

/* There is room again in the tunnel's queue. */
static void room(void *user, int32_t handle) {
  struct app *app = user;
  (void)handle;
  pthread_mutex_lock(&app->lock);
  app->has_room = 1;
  pthread_cond_signal(&app->changed);
  pthread_mutex_unlock(&app->lock);
}

static void turn_on(struct app *app, int host, const char *private_key) {
  wg_tun_callbacks_t tun = WG_TUN_CALLBACKS_INIT;
  wg_options_t options = WG_OPTIONS_INIT;
  char config[128];
  memset(app, 0, sizeof *app);
  app->host = host;
  pthread_mutex_init(&app->lock, NULL);
  pthread_cond_init(&app->changed, NULL);
  tun.write = write_packets;
  tun.room = room;
  tun.user = app;
  options.tun = &tun;
  snprintf(config, sizeof config, "private_key=%s\n", private_key);
  app->handle = wg_turn_on_with(&options, config);
  if (app->handle < 0) fail("wg_turn_on_with");
}

static void meet(const struct app *app, const struct app *peer, const char *public_key) {
  char *text = NULL, *line, config[256];
  if (wg_get_config(peer->handle, &text) != WG_OK) fail("wg_get_config");
  line = strstr(text, "listen_port=");
  snprintf(config, sizeof config, "public_key=%s\nendpoint=127.0.0.1:%d\nallowed_ip=10.0.0.%d/32\n", public_key,
           line ? atoi(line + 12) : 0, peer->host);
  wg_free(text);
  if (wg_set_config(app->handle, config) != WG_OK) fail("wg_set_config");
}

/* Waits until so many packets have come, at most a few seconds; returns how many have. */
static long wait_received(struct app *app, long count) {
  struct timespec end;
  long received;
  clock_gettime(CLOCK_REALTIME, &end);
  end.tv_sec += 3;
  pthread_mutex_lock(&app->lock);
  while (app->received < count && pthread_cond_timedwait(&app->changed, &app->lock, &end) == 0) continue;
  received = app->received;
  pthread_mutex_unlock(&app->lock);
  return received;
}

static void ping(struct app *from, const struct app *to) {
  unsigned char bytes[84];
  wg_packet_t request = {bytes, sizeof bytes};
  int i;
  make_echo(bytes, sizeof bytes, 8, from->host, to->host);
  for (i = 1; i <= 3; i++) {
    double begin = seconds();
    if (wg_tun_inject(from->handle, &request, 1, NULL) != WG_OK) fail("wg_tun_inject");
    if (wait_received(from, i) < i) fail("no answer");
    printf("answer %d after %.0f us%s\n", i, (seconds() - begin) * 1e6, i == 1 ? ", with the handshake" : "");
  }
}

/* Injects as many as the tunnel takes, and waits for room when it takes no more. */
static void flood(struct app *from, struct app *to, long count) {
  unsigned char bytes[PACKET_LEN];
  wg_packet_t packets[WG_BATCH_SIZE];
  long before = wait_received(to, 0), injected = 0, received;
  double begin, end;
  size_t i, taken;
  make_echo(bytes, sizeof bytes, 0, from->host, to->host);
  for (i = 0; i < WG_BATCH_SIZE; i++) {
    packets[i].data = bytes;
    packets[i].len = sizeof bytes;
  }
  begin = seconds();
  while (injected < count) {
    size_t batch = count - injected < WG_BATCH_SIZE ? (size_t)(count - injected) : WG_BATCH_SIZE;
    pthread_mutex_lock(&from->lock);
    from->has_room = 0;
    pthread_mutex_unlock(&from->lock);
    if (wg_tun_inject(from->handle, packets, batch, &taken) != WG_OK) fail("wg_tun_inject");
    injected += (long)taken;
    if (taken < batch) {
      pthread_mutex_lock(&from->lock);
      while (!from->has_room) pthread_cond_wait(&from->changed, &from->lock);
      pthread_mutex_unlock(&from->lock);
    }
  }
  end = seconds();
  /* Until no more come: some are lost where UDP sockets are full. */
  do {
    struct timespec moment = {0, 100000000};
    received = wait_received(to, 0);
    nanosleep(&moment, NULL);
  } while (wait_received(to, 0) > received);
  printf("%ld packets of %d bytes in %.3f s: %.0f a second, of which %.1f %% arrived\n", count, PACKET_LEN, end - begin,
         (double)count / (end - begin), 100.0 * (double)(received - before) / (double)count);
}

static void make_keys(char *private_key, char *public_key) {
  uint8_t key[WG_KEY_LEN], public_bytes[WG_KEY_LEN];
  if (wg_keys_generate_private(key) != WG_OK || wg_keys_derive_public(key, public_bytes) != WG_OK ||
      wg_keys_to_hex(key, private_key) != WG_OK || wg_keys_to_hex(public_bytes, public_key) != WG_OK)
    fail("keys");
}

int main(int argc, char **argv) {
  char private_keys[2][WG_KEY_HEX_LEN], public_keys[2][WG_KEY_HEX_LEN];
  struct app a, b;
  make_keys(private_keys[0], public_keys[0]);
  make_keys(private_keys[1], public_keys[1]);
  turn_on(&a, 1, private_keys[0]);
  turn_on(&b, 2, private_keys[1]);
  meet(&a, &b, public_keys[1]);
  meet(&b, &a, public_keys[0]);
  ping(&a, &b);
  flood(&a, &b, argc > 1 ? atol(argv[1]) : 20000);
  /* When this returns, no callback runs any more: `a` and `b` may go. */
  if (wg_turn_off(a.handle) != WG_OK || wg_turn_off(b.handle) != WG_OK) fail("wg_turn_off");
  return 0;
}
