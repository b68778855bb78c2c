/* Fuzzed calls for UDP without a tunnel. */
#ifndef FUZZ_UDP_H
#define FUZZ_UDP_H

#include "fuzz_tunnel.h"

static void keep_bind(struct caller *c, int32_t handle) { end_bind(atomic_exchange(&binds[c->slot], handle)); }

/* Makes a bind with some options: `adopt` a descriptor, or open a port. */
static int32_t make_bind(struct caller *c, const struct descriptor *adopt, uint32_t ownership) {
  wg_udp_options_t right = WG_UDP_OPTIONS_INIT;
  struct token *token = new_token();
  size_t size = any_size(&c->dice, sizeof right);
  uint16_t port = (uint16_t)(one_in(&c->dice, 16) ? below(&c->dice, 65536) : 0);
  uint16_t *chosen = one_in(&c->dice, 4) ? NULL : &port;
  int unknown, none = one_in(&c->dice, 8);
  void *options;
  int32_t handle;
  right.flags = (uint32_t)(one_in(&c->dice, 8) ? roll(&c->dice) : below(&c->dice, 4));
  right.mark = (uint32_t)below(&c->dice, 2);
  if (one_in(&c->dice, 2)) right.protect = protects;
  right.user = token;
  right.destroy = destroy_token;
  options = sized_copy(&c->dice, &right, sizeof right, size, &unknown);
  handle = adopt ? wg_udp_adopt(adopt->fd, ownership, none ? NULL : options, chosen)
                 : wg_udp_open(none ? NULL : options, chosen);
  free(options);
  number(c, handle);
  if (handle > 0 && chosen) CHECK(port != 0);
  CHECK(handle < 0 || none || (is_size(size, sizeof right) && !unknown));
  settle(token, handle < 0, !none && is_size(size, sizeof right));
  if (handle > 0) keep_bind(c, handle);
  return handle;
}

static void fuzz_wg_udp_open(struct caller *c) { make_bind(c, NULL, 0); }

static void fuzz_wg_udp_adopt(struct caller *c) {
  struct descriptor made = any_descriptor(&c->dice, c->number);
  uint32_t ownership = one_in(&c->dice, 8) ? (uint32_t)roll(&c->dice) : below(&c->dice, 2) ? WG_FD_TAKE : WG_FD_DUP;
  int32_t handle = make_bind(c, &made, ownership);
  close_descriptor(made, c->number, handle > 0 && ownership == WG_FD_TAKE);
}

static uint32_t any_family(struct caller *c) {
  static const uint32_t families[] = {WG_IPV4, WG_IPV6, WG_IPV4, WG_IPV6, 0, 5, UINT32_MAX};
  return families[below(&c->dice, COUNT_OF(families))];
}

static void fuzz_wg_udp_reopen(struct caller *c) {
  uint16_t port = 0;
  status(c, wg_udp_reopen(a_bind(c), one_in(&c->dice, 3) ? NULL : &port));
}

static void fuzz_wg_udp_close(struct caller *c) { status(c, wg_udp_close(a_bind(c))); }
static void fuzz_wg_udp_batch_size(struct caller *c) { number(c, wg_udp_batch_size(a_bind(c))); }

static void fuzz_wg_udp_set_mark(struct caller *c) {
  status(c, wg_udp_set_mark(a_bind(c), (uint32_t)below(&c->dice, 3)));
}

static void fuzz_wg_udp_set_interface(struct caller *c) {
  status(c, wg_udp_set_interface(a_bind(c), any_family(c), any_interface(c), any_flag(c)));
}

static void fuzz_wg_udp_peek_fd(struct caller *c) { number(c, wg_udp_peek_fd(a_bind(c), any_family(c))); }

enum { DATAGRAMS = WG_BATCH_SIZE + 8, LONGEST = 70000 };

static void fuzz_wg_udp_send(struct caller *c) {
  static const size_t lens[] = {0, 1, 100, 1200, 1452, 3000, 65507, 65508, LONGEST};
  static const uint32_t segments[] = {0, 0, 0, 100, 1200, 1, 65535, UINT32_MAX};
  static char data[LONGEST];
  wg_datagram_t *datagrams = calloc(DATAGRAMS, sizeof *datagrams);
  wg_endpoint_t peers[4];
  wg_send_report_t report;
  size_t count = one_in(&c->dice, 8) ? below(&c->dice, DATAGRAMS) : below(&c->dice, 8), i;
  int null = one_in(&c->dice, 20);
  CHECK(datagrams != NULL);
  if (null && one_in(&c->dice, 2)) count = SIZE_MAX;
  for (i = 0; i < COUNT_OF(peers); i++) peers[i] = any_endpoint(&c->dice);
  for (i = 0; i < count && i < DATAGRAMS; i++) {
    datagrams[i].len = lens[below(&c->dice, one_in(&c->dice, 8) ? COUNT_OF(lens) : 4)];
    datagrams[i].data = one_in(&c->dice, 60) ? NULL : data;
    datagrams[i].peer = one_in(&c->dice, 60) ? NULL : &peers[below(&c->dice, COUNT_OF(peers))];
    datagrams[i].segment_size = segments[below(&c->dice, one_in(&c->dice, 8) ? COUNT_OF(segments) : 4)];
    datagrams[i].tos = (uint32_t)(one_in(&c->dice, 60) ? roll(&c->dice) : below(&c->dice, 256));
  }
  number(c, wg_udp_send(a_bind(c), null ? NULL : datagrams, count, one_in(&c->dice, 2) ? NULL : &report));
  free(datagrams);
}

static void fuzz_wg_udp_recv(struct caller *c) {
  wg_datagram_t *datagrams = calloc(4, sizeof *datagrams);
  wg_endpoint_t peers[4];
  size_t capacities[4], i, count = below(&c->dice, 5);
  CHECK(datagrams != NULL);
  for (i = 0; i < 4; i++) {
    capacities[i] = below(&c->dice, 3) * 700;
    datagrams[i].capacity = capacities[i];
    datagrams[i].data = new_room(capacities[i]);
    if (!one_in(&c->dice, 4)) datagrams[i].peer = &peers[i];
  }
  number(c, wg_udp_recv(a_bind(c), any_family(c), one_in(&c->dice, 20) ? NULL : datagrams, count,
                        (int32_t)below(&c->dice, 3)));
  for (i = 0; i < 4; i++) free_room(datagrams[i].data, capacities[i], capacities[i]);
  free(datagrams);
}

#endif
