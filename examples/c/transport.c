/*
 * A transport of the app's own: what two tunnels say to each other looks like noise, and not like WireGuard.
 *
 *     cargo build --release
 *     cc -std=c99 -O2 -Iinclude examples/c/transport.c -o transport -Ltarget/release -lwg_embed -lpthread \
 *         -Wl,-rpath,target/release
 *     ./transport
 *
 * Each datagram begins with 8 unique bytes, and is masked with a stream of numbers that they seed. This shows where an
 * app can change datagrams; it is no protection against analysis. The packets in the tunnels come through socketpairs,
 * which take the place of the descriptor of a VPN service on a phone.
 */
#define _POSIX_C_SOURCE 200809L
#include "wg_embed.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PREFIX_LEN 8
#define MAX_DATAGRAM 2048
#define BATCH 64

struct app {
  int32_t handle;
  int host; /* its address in the tunnel is 10.0.0.host */
  int packets; /* the app's end of them */
  int socket;
  int port;
  pthread_t receiver;
  pthread_mutex_t lock; /* guards what follows */
  uint64_t prefix;
};

static void fail(const char *what) {
  fprintf(stderr, "%s: %s\n", what, wg_last_error());
  exit(1);
}

/* Masks bytes, or takes the mask off (splitmix64). Both sides would have to share a secret as well. */
static void mask(uint64_t prefix, const unsigned char *from, unsigned char *to, size_t len) {
  uint64_t z = 0;
  size_t i;
  for (i = 0; i < len; i++, z >>= 8) {
    if (i % 8 == 0) {
      prefix += UINT64_C(0x9e3779b97f4a7c15);
      z = (prefix ^ (prefix >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
      z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
      z ^= z >> 31;
    }
    to[i] = from[i] ^ (unsigned char)z;
  }
}

/* The tunnel has datagrams to send. Several threads may say so at the same time. */
static size_t send_datagrams(void *user, int32_t handle, const wg_datagram_t *datagrams, size_t count) {
  struct app *app = user;
  size_t i;
  (void)handle;
  for (i = 0; i < count; i++) {
    unsigned char bytes[MAX_DATAGRAM];
    struct sockaddr_in to;
    uint64_t prefix;
    if (datagrams[i].len > sizeof bytes - PREFIX_LEN || datagrams[i].peer->family != WG_IPV4) break;
    pthread_mutex_lock(&app->lock);
    prefix = app->prefix += UINT64_C(0xd1342543de82ef95);
    pthread_mutex_unlock(&app->lock);
    memcpy(bytes, &prefix, PREFIX_LEN);
    mask(prefix, datagrams[i].data, bytes + PREFIX_LEN, datagrams[i].len);
    memset(&to, 0, sizeof to);
    to.sin_family = AF_INET;
    to.sin_port = htons(datagrams[i].peer->port);
    memcpy(&to.sin_addr, datagrams[i].peer->address, 4);
    if (sendto(app->socket, bytes, datagrams[i].len + PREFIX_LEN, 0, (struct sockaddr *)&to, sizeof to) < 0) break;
  }
  /* What is left counts as lost. */
  return i;
}

/* Receives until an empty datagram comes, as many at once as there are. */
static void *receive_datagrams(void *argument) {
  struct app *app = argument;
  static unsigned char buffers[2][BATCH][MAX_DATAGRAM];
  int ended = 0;
  while (!ended) {
    wg_datagram_t datagrams[BATCH];
    wg_endpoint_t peers[BATCH];
    size_t count = 0;
    while (count < BATCH) {
      unsigned char bytes[MAX_DATAGRAM], *clear = buffers[app->host - 1][count];
      struct sockaddr_in from;
      socklen_t from_len = sizeof from;
      uint64_t prefix;
      ssize_t len = recvfrom(app->socket, bytes, sizeof bytes, count == 0 ? 0 : MSG_DONTWAIT, (struct sockaddr *)&from, &from_len);
      ended = len == 0;
      if (len < PREFIX_LEN) break;
      memcpy(&prefix, bytes, PREFIX_LEN);
      mask(prefix, bytes + PREFIX_LEN, clear, (size_t)len - PREFIX_LEN);
      memset(&datagrams[count], 0, sizeof datagrams[count]);
      datagrams[count].data = clear;
      datagrams[count].len = (size_t)len - PREFIX_LEN;
      datagrams[count].peer = &peers[count];
      memset(&peers[count], 0, sizeof peers[count]);
      peers[count].family = WG_IPV4;
      peers[count].port = ntohs(from.sin_port);
      memcpy(peers[count].address, &from.sin_addr, 4);
      count++;
    }
    /* It is off already, perhaps; then they are of no use any more. */
    wg_transport_receive(app->handle, datagrams, count, NULL);
  }
  return NULL;
}

static void turn_on(struct app *app, int host, const char *private_key) {
  wg_transport_t transport = WG_TRANSPORT_INIT;
  wg_options_t options = WG_OPTIONS_INIT;
  struct sockaddr_in address;
  socklen_t len = sizeof address;
  char config[128];
  int pair[2];
  memset(app, 0, sizeof *app);
  app->host = host;
  app->prefix = (uint64_t)host;
  pthread_mutex_init(&app->lock, NULL);
  memset(&address, 0, sizeof address);
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  app->socket = socket(AF_INET, SOCK_DGRAM, 0);
  if (app->socket < 0 || bind(app->socket, (struct sockaddr *)&address, len) < 0 ||
      getsockname(app->socket, (struct sockaddr *)&address, &len) < 0 || socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) < 0) {
    perror("sockets");
    exit(1);
  }
  app->port = ntohs(address.sin_port);
  app->packets = pair[1];
  transport.send = send_datagrams;
  transport.user = app;
  options.tun_fd = pair[0];
  options.transport = &transport;
  snprintf(config, sizeof config, "private_key=%s\n", private_key);
  app->handle = wg_turn_on_with(&options, config);
  if (app->handle < 0) fail("wg_turn_on_with");
  pthread_create(&app->receiver, NULL, receive_datagrams, app);
}

static void turn_off(struct app *app) {
  struct sockaddr_in own;
  /* When this returns, `send_datagrams` is not running any more, and will not be called again. */
  if (wg_turn_off(app->handle) != WG_OK) fail("wg_turn_off");
  memset(&own, 0, sizeof own);
  own.sin_family = AF_INET;
  own.sin_port = htons((uint16_t)app->port);
  own.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  sendto(app->socket, "", 0, 0, (struct sockaddr *)&own, sizeof own);
  pthread_join(app->receiver, NULL);
  close(app->socket);
  close(app->packets);
}

static void meet(const struct app *app, const struct app *peer, const char *public_key) {
  char config[256];
  snprintf(config, sizeof config, "public_key=%s\nendpoint=127.0.0.1:%d\nallowed_ip=10.0.0.%d/32\n", public_key, peer->port,
           peer->host);
  if (wg_set_config(app->handle, config) != WG_OK) fail("wg_set_config");
}

/* A packet goes in at one end and must come out at the other. */
static void pass(const struct app *from, const struct app *to, const char *text) {
  unsigned char packet[128] = {0x45}, got[sizeof packet];
  size_t len = 20 + strlen(text);
  packet[3] = (unsigned char)len;
  packet[8] = 64;
  packet[9] = 253;
  packet[12] = packet[16] = 10;
  packet[15] = (unsigned char)from->host;
  packet[19] = (unsigned char)to->host;
  memcpy(packet + 20, text, strlen(text));
  if (send(from->packets, packet, len, 0) != (ssize_t)len || recv(to->packets, got, sizeof got, 0) != (ssize_t)len) {
    perror("packet");
    exit(1);
  }
  printf("10.0.0.%d says \"%.*s\" to 10.0.0.%d\n", from->host, (int)len - 20, (const char *)got + 20, to->host);
}

static void make_keys(char *private_key, char *public_key) {
  uint8_t key[WG_KEY_LEN], public_bytes[WG_KEY_LEN];
  if (wg_keys_generate_private(key) != WG_OK || wg_keys_derive_public(key, public_bytes) != WG_OK ||
      wg_keys_to_hex(key, private_key) != WG_OK || wg_keys_to_hex(public_bytes, public_key) != WG_OK)
    fail("keys");
}

int main(void) {
  char private_keys[2][WG_KEY_HEX_LEN], public_keys[2][WG_KEY_HEX_LEN];
  struct app a, b;
  make_keys(private_keys[0], public_keys[0]);
  make_keys(private_keys[1], public_keys[1]);
  turn_on(&a, 1, private_keys[0]);
  turn_on(&b, 2, private_keys[1]);
  meet(&a, &b, public_keys[1]);
  meet(&b, &a, public_keys[0]);
  pass(&a, &b, "hello");
  pass(&b, &a, "who is there?");
  pass(&a, &b, "nobody can tell");
  turn_off(&a);
  turn_off(&b);
  return 0;
}
