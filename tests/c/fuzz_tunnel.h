/* Fuzzed calls that turn tunnels on and off and change them, and that bring packets and datagrams. */
#ifndef FUZZ_TUNNEL_H
#define FUZZ_TUNNEL_H

#include "fuzz_call.h"

/* Keeps a tunnel in the caller's place, for all to call; what was there before ends. */
static void keep_tunnel(struct caller *c, int32_t handle) { end_tunnel(atomic_exchange(&tunnels[c->slot], handle)); }

static void fuzz_wg_turn_on(struct caller *c) {
  struct descriptor made = any_descriptor(&c->dice, c->number);
  const char *text = any_config(&c->dice, c->text, sizeof c->text);
  int32_t handle = wg_turn_on(made.fd, text);
  int on = number(c, handle);
  close_descriptor(made, c->number, on);
  if (on) keep_tunnel(c, handle);
}

static int32_t any_level(struct caller *c) {
  static const int32_t levels[] = {0, 1, 2, 3, 3, 3, 4, 5, 6, -1, INT32_MAX, INT32_MIN};
  return levels[below(&c->dice, COUNT_OF(levels))];
}

static void fuzz_wg_turn_on_with(struct caller *c) {
  static const uint32_t mtus[] = {0, 0, 0, 576, 1420, 65535, 1, 65536, UINT32_MAX};
  static const uint32_t most[] = {0, 0, 1, 16777216, 16777217, UINT32_MAX};
  static const int32_t queue_fds[WG_QUEUES_MAX] = {-1, -1, -1, -1, -1, -1, -1, -1};
  static const size_t limits[] = {0, 0, WG_MEMORY_MIN, WG_MEMORY_MAX, 1, SIZE_MAX};
  wg_options_t right = WG_OPTIONS_INIT;
  wg_tun_callbacks_t tun = WG_TUN_CALLBACKS_INIT;
  wg_transport_t transport = WG_TRANSPORT_INIT;
  struct descriptor made = any_descriptor(&c->dice, c->number);
  struct token *protector = new_token(), *resolver = new_token(), *taker = new_token(), *sender = new_token();
  struct token *watcher = new_token(), *logger = new_token();
  const char *text = any_config(&c->dice, c->text, sizeof c->text);
  size_t tun_size = any_size(&c->dice, sizeof tun), transport_size = any_size(&c->dice, sizeof transport), size;
  int null = one_in(&c->dice, 40), tame = one_in(&c->dice, 2), unknown, ignored, read; /* half of them should work */
  void *options, *own_tun, *own_transport;
  int32_t handle;
  size = any_size(&c->dice, sizeof right);
  if (tame) {
    text = "private_key=" PRIVATE_A "\npublic_key=" PUBLIC_B "\nendpoint=127.0.0.1:9\nallowed_ip=10.9.0.2/32\n";
    size = sizeof right;
    tun_size = sizeof tun;
    transport_size = sizeof transport;
  }
  right.tun_fd = made.fd;
  right.fd_ownership = !tame && one_in(&c->dice, 8) ? (uint32_t)below(&c->dice, 5) : below(&c->dice, 2) ? WG_FD_TAKE : WG_FD_DUP;
  right.mtu = tame ? 0 : mtus[below(&c->dice, COUNT_OF(mtus))];
  right.max_peers = tame ? 0 : most[below(&c->dice, COUNT_OF(most))];
  right.memory_limit = tame ? 0 : limits[below(&c->dice, COUNT_OF(limits))];
  if (one_in(&c->dice, 2)) right.protect = protects;
  if (one_in(&c->dice, 2)) right.resolve = one_in(&c->dice, 2) ? resolves : wg_resolve_system;
  right.protect_user = protector;
  right.resolve_user = resolver;
  if (!one_in(&c->dice, 8)) tun.write = writes;
  if (!one_in(&c->dice, 8)) tun.room = has_room;
  if (!one_in(&c->dice, 8)) transport.send = sends;
  tun.user = taker;
  transport.user = sender;
  if (one_in(&c->dice, 2)) right.event = takes_events;
  if (one_in(&c->dice, 2)) right.log = takes_lines;
  right.event_user = watcher;
  right.log_user = logger;
  right.event_destroy = right.log_destroy = destroy_token;
  if (!tame) right.log_level = any_level(c);
  right.flags = tame || !one_in(&c->dice, 8) ? (uint32_t)below(&c->dice, 2) : (uint32_t)roll(&c->dice);
  right.protect_destroy = right.resolve_destroy = tun.destroy = transport.destroy = destroy_token;
  own_tun = sized_copy(&c->dice, &tun, sizeof tun, tun_size, &ignored);
  own_transport = sized_copy(&c->dice, &transport, sizeof transport, transport_size, &ignored);
  if (one_in(&c->dice, 2)) right.tun = own_tun;
  if (one_in(&c->dice, 2)) right.transport = own_transport;
  if (right.tun != NULL && !one_in(&c->dice, 8)) right.tun_fd = -1;
  if (!tame && one_in(&c->dice, 8)) right.interface_name = one_in(&c->dice, 2) ? "" : "more than fifteen bytes";
  if (!tame && one_in(&c->dice, 8)) right.queues = (uint32_t)below(&c->dice, WG_QUEUES_MAX + 3);
  if (!tame && one_in(&c->dice, 8)) right.queue_fds = queue_fds;
  options = sized_copy(&c->dice, &right, sizeof right, size, &unknown);
  handle = wg_turn_on_with(null ? NULL : options, text);
  free(options);
  free(own_tun);
  free(own_transport);
  number(c, handle);
  read = !null && is_size(size, sizeof right);
  CHECK(handle < 0 || (read && !unknown));
  settle(protector, handle < 0, read);
  settle(resolver, handle < 0, read);
  settle(watcher, handle < 0 || right.event == NULL, read);
  settle(logger, handle < 0 || right.log == NULL, read);
  settle(taker, handle < 0, read && right.tun && is_size(tun_size, sizeof tun));
  settle(sender, handle < 0, read && right.transport && is_size(transport_size, sizeof transport));
  close_descriptor(made, c->number, handle > 0 && right.tun_fd == made.fd && right.fd_ownership == WG_FD_TAKE);
  if (handle > 0) keep_tunnel(c, handle);
}

/* Packets, and datagrams for an app's own transport. */

enum { MOST = 4100 }; /* one call takes 4096 */

static void fuzz_wg_tun_inject(struct caller *c) {
  static const size_t lens[] = {20, 20, 100, 1420, 0, 1, 65535, 65536, SIZE_MAX};
  static unsigned char big[65536];
  unsigned char packet[1500];
  wg_packet_t *packets = calloc(MOST, sizeof *packets);
  size_t count = one_in(&c->dice, 16) ? below(&c->dice, MOST + 1) : below(&c->dice, 10), taken = 77, i;
  int null = one_in(&c->dice, 20);
  CHECK(packets != NULL);
  if (null && one_in(&c->dice, 2)) count = SIZE_MAX;
  make_packet(packet, 1420, 1 + (int)below(&c->dice, 2), 1 + (int)below(&c->dice, 2), 0);
  if (one_in(&c->dice, 4)) packet[below(&c->dice, 20)] = (unsigned char)roll(&c->dice);
  for (i = 0; i < count && i < MOST; i++) {
    packets[i].len = lens[below(&c->dice, one_in(&c->dice, 16) ? COUNT_OF(lens) : 4)];
    packets[i].data = one_in(&c->dice, 60) ? NULL : packets[i].len > 1500 ? big : packet;
  }
  if (status(c, wg_tun_inject(tunnel(c), null ? NULL : packets, count, one_in(&c->dice, 8) ? NULL : &taken)))
    CHECK(taken == 77 || taken <= count);
  else CHECK_EQ(taken, 77);
  free(packets);
}

static void fuzz_wg_transport_receive(struct caller *c) {
  static const size_t lens[] = {0, 32, 148, 92, 1452, 1, 65507, 65536, SIZE_MAX};
  static unsigned char big[65536];
  unsigned char bytes[1500];
  wg_datagram_t *datagrams = calloc(MOST, sizeof *datagrams);
  wg_endpoint_t peers[4];
  size_t count = one_in(&c->dice, 16) ? below(&c->dice, MOST + 1) : below(&c->dice, 10), taken = 77, i;
  int null = one_in(&c->dice, 20);
  CHECK(datagrams != NULL);
  if (null && one_in(&c->dice, 2)) count = SIZE_MAX;
  for (i = 0; i < sizeof bytes; i++) bytes[i] = (unsigned char)roll(&c->dice);
  if (!one_in(&c->dice, 4)) bytes[0] = (unsigned char)(1 + below(&c->dice, 4)), bytes[1] = bytes[2] = bytes[3] = 0;
  for (i = 0; i < COUNT_OF(peers); i++) peers[i] = any_endpoint(&c->dice);
  peers[0].family = WG_IPV4;
  for (i = 0; i < count && i < MOST; i++) {
    datagrams[i].len = lens[below(&c->dice, one_in(&c->dice, 16) ? COUNT_OF(lens) : 5)];
    datagrams[i].data = one_in(&c->dice, 60) ? NULL : datagrams[i].len > 1500 ? big : bytes;
    datagrams[i].peer = one_in(&c->dice, 60) ? NULL : &peers[one_in(&c->dice, 16) ? below(&c->dice, COUNT_OF(peers)) : 0];
    datagrams[i].tos = (uint32_t)(one_in(&c->dice, 60) ? roll(&c->dice) : below(&c->dice, 256));
    if (one_in(&c->dice, 60)) datagrams[i].segment_size = (uint32_t)roll(&c->dice);
  }
  if (status(c, wg_transport_receive(tunnel(c), null ? NULL : datagrams, count, one_in(&c->dice, 8) ? NULL : &taken)))
    CHECK(taken == 77 || taken <= count);
  else CHECK_EQ(taken, 77);
  free(datagrams);
}

static void fuzz_wg_set_mtu(struct caller *c) {
  static const uint32_t mtus[] = {576, 1280, 1420, 65535, 0, 575, 65536, UINT32_MAX};
  status(c, wg_set_mtu(tunnel(c), mtus[below(&c->dice, COUNT_OF(mtus))]));
}

static void fuzz_wg_set_tun_fd(struct caller *c) {
  static const uint32_t mtus[] = {0, 0, 0, 576, 1420, 65535, 1, 65536, UINT32_MAX};
  struct descriptor made = any_descriptor(&c->dice, c->number);
  uint32_t ownership = one_in(&c->dice, 8) ? (uint32_t)below(&c->dice, 5) : below(&c->dice, 2) ? WG_FD_TAKE : WG_FD_DUP;
  int replaced = status(c, wg_set_tun_fd(tunnel(c), made.fd, ownership, mtus[below(&c->dice, COUNT_OF(mtus))]));
  close_descriptor(made, c->number, replaced && ownership == WG_FD_TAKE);
}

static void fuzz_wg_turn_off(struct caller *c) { status(c, wg_turn_off(tunnel(c))); }

static void fuzz_wg_turn_off_within(struct caller *c) {
  status(c, wg_turn_off_within(tunnel(c), (uint32_t)below(&c->dice, 3)));
}
static void fuzz_wg_pause(struct caller *c) { status(c, wg_pause(tunnel(c))); }
static void fuzz_wg_resume(struct caller *c) { status(c, wg_resume(tunnel(c))); }
static void fuzz_wg_trim(struct caller *c) { status(c, wg_trim(tunnel(c))); }
static void fuzz_wg_bump_sockets(struct caller *c) { status(c, wg_bump_sockets(tunnel(c))); }
static void fuzz_wg_network_changed(struct caller *c) { status(c, wg_network_changed(tunnel(c))); }
static void fuzz_wg_disable_roaming(struct caller *c) { status(c, wg_disable_roaming(tunnel(c))); }
static void fuzz_wg_peek_socket_fd4(struct caller *c) { number(c, wg_peek_socket_fd4(tunnel(c))); }
static void fuzz_wg_peek_socket_fd6(struct caller *c) { number(c, wg_peek_socket_fd6(tunnel(c))); }

static void fuzz_wg_set_fwmark(struct caller *c) { status(c, wg_set_fwmark(tunnel(c), (uint32_t)below(&c->dice, 3))); }

/* None, the loopback interface, and some that there are not. */
static uint32_t any_interface(struct caller *c) {
  static const uint32_t interfaces[] = {0, 0, 1, 1, 999999, UINT32_MAX, 1u << 31};
  return interfaces[below(&c->dice, COUNT_OF(interfaces))];
}

static int32_t any_flag(struct caller *c) { return (int32_t)below(&c->dice, 5) - 2; }

static void fuzz_wg_bind_socket_to_interface4(struct caller *c) {
  status(c, wg_bind_socket_to_interface4(tunnel(c), any_interface(c), any_flag(c)));
}

static void fuzz_wg_bind_socket_to_interface6(struct caller *c) {
  status(c, wg_bind_socket_to_interface6(tunnel(c), any_interface(c), any_flag(c)));
}

static void fuzz_wg_set_config(struct caller *c) {
  status(c, wg_set_config(tunnel(c), any_config(&c->dice, c->text, sizeof c->text)));
}

static const uint8_t *any_peer(struct caller *c, uint8_t key[WG_KEY_LEN]) {
  static const char *const keys[] = {PUBLIC_A, PUBLIC_B, PSK};
  key_bytes(keys[below(&c->dice, COUNT_OF(keys))], key);
  return one_in(&c->dice, 20) ? NULL : key;
}

static void fuzz_wg_set_peer(struct caller *c) {
  static const char *const endpoints[] = {"127.0.0.1:9", "[::1]:9", "localhost:9", "127.0.0.1", "", "\xff:9", NULL};
  static const size_t counts[] = {0, 1, 2, 3, 3, 1048577, SIZE_MAX};
  wg_peer_config_t right = WG_PEER_CONFIG_INIT;
  wg_allowed_ip_t prefixes[3];
  size_t size = any_size(&c->dice, sizeof right), i;
  int unknown, set;
  void *copy;
  for (i = 0; i < sizeof prefixes; i++) ((unsigned char *)prefixes)[i] = (unsigned char)roll(&c->dice);
  for (i = 0; i < COUNT_OF(prefixes) && !one_in(&c->dice, 8); i++) {
    prefixes[i].family = below(&c->dice, 2) ? WG_IPV4 : WG_IPV6;
    prefixes[i].prefix_len = (uint32_t)below(&c->dice, one_in(&c->dice, 8) ? 130 : 33);
    prefixes[i].flags = (uint32_t)below(&c->dice, one_in(&c->dice, 8) ? 3 : 2);
  }
  (void)any_peer(c, right.public_key);
  right.flags = (uint32_t)(one_in(&c->dice, 16) ? roll(&c->dice) : below(&c->dice, 16));
  if (right.flags & WG_PEER_HAS_KEEPALIVE || one_in(&c->dice, 16))
    right.persistent_keepalive = (uint32_t)(one_in(&c->dice, 16) ? roll(&c->dice) : below(&c->dice, 2));
  if (right.flags & WG_PEER_HAS_PRESHARED_KEY || one_in(&c->dice, 16))
    for (i = 0; i < WG_KEY_LEN; i++) right.preshared_key[i] = (uint8_t)roll(&c->dice);
  right.endpoint = endpoints[one_in(&c->dice, 4) ? below(&c->dice, COUNT_OF(endpoints)) : COUNT_OF(endpoints) - 1];
  right.allowed_ips = one_in(&c->dice, 4) ? NULL : prefixes;
  right.allowed_ip_count = counts[below(&c->dice, one_in(&c->dice, 8) || right.allowed_ips == NULL ? 7 : 5)];
  copy = sized_copy(&c->dice, &right, sizeof right, size, &unknown);
  set = status(c, wg_set_peer(tunnel(c), one_in(&c->dice, 20) ? NULL : copy));
  CHECK(!set || (is_size(size, sizeof right) && !unknown));
  free(copy);
}

static void fuzz_wg_remove_peer(struct caller *c) {
  uint8_t key[WG_KEY_LEN];
  const uint8_t *peer = any_peer(c, key);
  status(c, wg_remove_peer(tunnel(c), peer));
}

static void fuzz_wg_force_handshake(struct caller *c) {
  uint8_t key[WG_KEY_LEN];
  const uint8_t *peer = any_peer(c, key);
  status(c, wg_force_handshake(tunnel(c), peer));
}

static void fuzz_wg_drop_session(struct caller *c) {
  uint8_t key[WG_KEY_LEN];
  const uint8_t *peer = any_peer(c, key);
  status(c, wg_drop_session(tunnel(c), peer));
}

static void fuzz_get(struct caller *c, wg_result_t (*get)(int32_t, char **), int is_public) {
  char *const untouched = c->text, *text = untouched;
  if (status(c, get(tunnel(c), one_in(&c->dice, 8) ? NULL : &text))) {
    CHECK(text != untouched && strstr(text, "errno=") == NULL);
    if (is_public) CHECK(strstr(text, "private_key=") == NULL && strstr(text, "preshared_key=") == NULL);
    wg_free(text);
  } else {
    CHECK(text == untouched);
  }
}

static void fuzz_wg_get_config(struct caller *c) { fuzz_get(c, wg_get_config, 0); }
static void fuzz_wg_get_config_public(struct caller *c) { fuzz_get(c, wg_get_config_public, 1); }

static void fuzz_wg_public_key(struct caller *c) {
  uint8_t *key = new_room(WG_KEY_LEN);
  int read = status(c, wg_public_key(tunnel(c), one_in(&c->dice, 8) ? NULL : key));
  free_room(key, read ? WG_KEY_LEN : 0, WG_KEY_LEN);
}

static void fuzz_wg_listen_port(struct caller *c) {
  int32_t port = wg_listen_port(tunnel(c));
  CHECK(port <= 65535);
  number(c, port);
}

static void fuzz_wg_free(struct caller *c) {
  char *text = NULL;
  if (wg_get_config(tunnel(c), &text) != WG_OK) CHECK(text == NULL);
  wg_free(text);
  fine(c, 1);
}

#endif
