/* wg_tun_callbacks_t and wg_transport_t: what passes, what is refused, what callbacks may do, and when they end. */
#include "custom_io.h"

static void packets_pass_in_batches(void) {
  struct node a, b;
  char *text;
  init_node(&a, 1);
  init_node(&b, 2);
  turn_nodes_on(&a, &b);
  CHECK_EQ(inject_equal(&a, 100, 1), 1);
  wait_for(&b, &b.packets, 1);
  CHECK_EQ(inject_equal(&b, 100, 1), 1);
  wait_for(&a, &a.packets, 1);
  /* In one call they go in, and so they leave, arrive and come out. */
  CHECK_EQ(inject_equal(&a, 1420, 100), 100);
  wait_for(&b, &b.packets, 101);
  CHECK_EQ(a.largest_send, 100);
  CHECK(b.largest_write >= 64);
  CHECK_EQ(inject_equal(&a, 20, 0), 0);
  /* What was said of the peer's datagrams comes back. */
  CHECK_EQ(b.last_peer.family, WG_IPV4);
  CHECK_EQ(memcmp(b.last_peer.source, endpoint_of(2).address, 16), 0);
  /* No sockets were opened. */
  text = get(a.handle);
  CHECK(strstr(text, "\nendpoint=192.0.2.2:51820\n") != NULL && strstr(text, "listen_port") == NULL);
  wg_free(text);
  turn_node_off(&a);
  turn_node_off(&b);
}

/* Each of the two works without the other. */
static void the_other_end_may_be_the_systems(void) {
  wg_tun_callbacks_t tun = WG_TUN_CALLBACKS_INIT;
  wg_transport_t transport = WG_TRANSPORT_INIT;
  wg_options_t options = WG_OPTIONS_INIT;
  struct end end = turn_on(SOCK_DGRAM, "private_key=" PRIVATE_B "\n"), fd;
  struct node a, b;
  struct pollfd ready = {0, POLLIN, 0};
  unsigned char bytes[1500];
  wg_packet_t packet = {bytes, 100};
  char text[512];
  int pair[2];

  /* Callbacks and UDP. */
  init_node(&a, 1);
  tun.write = node_write;
  tun.user = &a;
  options.tun = &tun;
  CHECK((a.handle = wg_turn_on_with(&options, "private_key=" PRIVATE_A "\n")) > 0);
  snprintf(text, sizeof text, "public_key=%s\npreshared_key=%s\nendpoint=127.0.0.1:%d\nallowed_ip=10.9.0.2/32\n", PUBLIC_B,
           PSK, listen_port(end.handle));
  CHECK_EQ(wg_set_config(a.handle, text), WG_OK);
  add_peer(end, PUBLIC_A, listen_port(a.handle), 1);
  make_packet(bytes, 100, 1, 2, 0);
  CHECK_EQ(wg_tun_inject(a.handle, &packet, 1, NULL), WG_OK);
  ready.fd = end.app;
  CHECK_EQ(poll(&ready, 1, 60000), 1);
  make_packet(bytes, 100, 2, 1, 0);
  CHECK_EQ(send(end.app, bytes, 100, 0), 100);
  wait_for(&a, &a.packets, 1);
  CHECK_FAILS(wg_transport_receive(a.handle, NULL, 0, NULL), WG_ERR_UNSUPPORTED, "wg_transport_t");
  CHECK_EQ(wg_turn_off(a.handle), WG_OK);
  CHECK_EQ(a.destroyed, 0); /* it has no `destroy` */
  CHECK_FAILS(wg_tun_inject(end.handle, &packet, 1, NULL), WG_ERR_UNSUPPORTED, "wg_tun_callbacks_t");
  CHECK_FAILS(wg_set_mtu(end.handle, 1280), WG_ERR_UNSUPPORTED, "wg_tun_callbacks_t");
  turn_off(end);

  /* A descriptor and a transport. */
  init_node(&a, 1);
  init_node(&b, 2);
  a.other = &b;
  b.other = &a;
  make_pair(SOCK_SEQPACKET, pair);
  options.tun = NULL;
  options.tun_fd = pair[0];
  transport.send = node_send;
  transport.user = &a;
  transport.destroy = node_destroyed;
  options.transport = &transport;
  CHECK((a.handle = wg_turn_on_with(&options, "private_key=" PRIVATE_A "\n")) > 0);
  CHECK((b.handle = turn_node_on(&b, "private_key=" PRIVATE_B "\n")) > 0);
  CHECK_EQ(wg_set_config(a.handle, peer_of(&a, text, sizeof text, "")), WG_OK);
  CHECK_EQ(wg_set_config(b.handle, peer_of(&b, text, sizeof text, "")), WG_OK);
  fd.handle = a.handle;
  fd.app = pair[1];
  make_packet(bytes, 100, 1, 2, 0);
  CHECK_EQ(send(fd.app, bytes, 100, 0), 100);
  wait_for(&b, &b.packets, 1);
  CHECK_EQ(inject_equal(&b, 200, 1), 1);
  CHECK_EQ(recv(fd.app, bytes, sizeof bytes, 0), 200);
  /* A tunnel that has ended takes nothing any more. */
  close(fd.app);
  while (wg_transport_receive(a.handle, NULL, 0, NULL) == WG_OK) sleep_ms(2);
  CHECK_FAILS(wg_transport_receive(a.handle, NULL, 0, NULL), WG_ERR_CLOSED, "has ended");
  CHECK_EQ(a.destroyed, 0);
  CHECK_EQ(wg_turn_off(a.handle), WG_OK);
  CHECK_EQ(a.destroyed, 1);
  turn_node_off(&b);
}

static void what_the_app_passes_is_checked(void) {
  static unsigned char bytes[65536];
  static wg_packet_t many[4097];
  static wg_datagram_t many_datagrams[4097];
  wg_packet_t packets[3] = {{bytes, 20}, {bytes, 65535}, {NULL, 0}};
  wg_endpoint_t peer = endpoint_of(2), nowhere = {5, PORT, 0, {0}, {0}, 0}, odd_peer = {WG_IPV6, 1, UINT32_MAX, {0}, {0}, UINT32_MAX};
  wg_datagram_t datagrams[3], good = datagram_from(&peer, bytes, 100);
  unsigned char odd[sizeof packets + 1];
  struct node a;
  size_t taken = 77, i;
  init_node(&a, 1);
  CHECK((a.handle = turn_node_on(&a, "private_key=" PRIVATE_A "\n")) > 0);
  memset(odd_peer.source, 255, 16);

  CHECK_FAILS(wg_tun_inject(a.handle, NULL, 1, &taken), WG_ERR_NULL, "packets is NULL");
  CHECK_FAILS(wg_tun_inject(a.handle, many, 4097, &taken), WG_ERR_TOO_LARGE, "4097 packets");
  CHECK_FAILS(wg_tun_inject(a.handle, many, SIZE_MAX, &taken), WG_ERR_TOO_LARGE, "packets");
  CHECK_FAILS(wg_tun_inject(a.handle, (const wg_packet_t *)(const void *)(odd + 1), 1, &taken), WG_ERR_INVALID, "aligned");
  CHECK_FAILS(wg_tun_inject(0, packets, 1, &taken), WG_ERR_UNKNOWN_HANDLE, "handle 0");
  CHECK_FAILS(wg_tun_inject(-1, packets, 1, &taken), WG_ERR_UNKNOWN_HANDLE, "handle -1");
  packets[2].len = 1;
  CHECK_FAILS(wg_tun_inject(a.handle, packets, 3, &taken), WG_ERR_NULL, "packets[2]: data is NULL");
  packets[2].data = bytes;
  packets[2].len = 65536;
  CHECK_FAILS(wg_tun_inject(a.handle, packets, 3, &taken), WG_ERR_INVALID, "packets[2]: 65536 bytes");
  packets[2].len = SIZE_MAX;
  CHECK_FAILS(wg_tun_inject(a.handle, packets, 3, &taken), WG_ERR_INVALID, "packets[2]: ");
  CHECK_EQ(taken, 77);
  packets[2].data = NULL;
  packets[2].len = 0;
  CHECK_EQ(wg_tun_inject(a.handle, packets, 3, &taken), WG_OK);
  CHECK_EQ(taken, 3);
  CHECK_EQ(wg_tun_inject(a.handle, NULL, 0, &taken), WG_OK);
  CHECK_EQ(taken, 0);
  CHECK_EQ(wg_tun_inject(a.handle, many, 4096, NULL), WG_OK);

  taken = 77;
  CHECK_FAILS(wg_transport_receive(a.handle, NULL, 1, &taken), WG_ERR_NULL, "datagrams is NULL");
  CHECK_FAILS(wg_transport_receive(a.handle, many_datagrams, 4097, &taken), WG_ERR_TOO_LARGE, "4097 datagrams");
  CHECK_FAILS(wg_transport_receive(a.handle, many_datagrams, 2, &taken), WG_ERR_NULL, "datagrams[0]: peer is NULL");
  CHECK_FAILS(wg_transport_receive(1 << 30, &good, 1, &taken), WG_ERR_UNKNOWN_HANDLE, "handle");
  for (i = 0; i < 5; i++) {
    static const struct {
      wg_result_t code;
      const char *text;
    } expected[] = {{WG_ERR_NULL, "datagrams[1]: data is NULL"},
                    {WG_ERR_INVALID, "datagrams[1]: 65536 bytes"},
                    {WG_ERR_INVALID, "datagrams[1]: the family is 5"},
                    {WG_ERR_INVALID, "datagrams[1]: segment_size is 50"},
                    {WG_ERR_INVALID, "datagrams[1]: tos is 256"}};
    datagrams[0] = datagrams[1] = datagrams[2] = good;
    switch (i) {
    case 0: datagrams[1].data = NULL; break;
    case 1: datagrams[1].len = 65536; break;
    case 2: datagrams[1].peer = &nowhere; break;
    case 3: datagrams[1].segment_size = 50; break;
    default: datagrams[1].tos = 256;
    }
    CHECK_FAILS(wg_transport_receive(a.handle, datagrams, 3, &taken), expected[i].code, expected[i].text);
  }
  CHECK_EQ(taken, 77);
  /* Whatever a network brings is fine. */
  datagrams[0] = datagrams[1] = datagrams[2] = good;
  datagrams[0].len = 65535;
  datagrams[1].len = 0;
  datagrams[1].data = NULL;
  datagrams[2].tos = 255;
  datagrams[2].peer = &odd_peer;
  CHECK_EQ(wg_transport_receive(a.handle, datagrams, 3, &taken), WG_OK);
  CHECK_EQ(taken, 3);

  CHECK_FAILS(wg_set_mtu(a.handle, 575), WG_ERR_INVALID, "mtu is 575");
  CHECK_FAILS(wg_set_mtu(a.handle, 65536), WG_ERR_INVALID, "mtu is 65536");
  CHECK_FAILS(wg_set_mtu(-3, 1280), WG_ERR_UNKNOWN_HANDLE, "handle -3");
  CHECK_EQ(wg_set_mtu(a.handle, 576), WG_OK);
  CHECK_EQ(wg_set_mtu(a.handle, 65535), WG_OK);
  turn_node_off(&a);
  CHECK_FAILS(wg_tun_inject(a.handle, packets, 1, NULL), WG_ERR_UNKNOWN_HANDLE, "handle");
  CHECK_FAILS(wg_transport_receive(a.handle, &good, 1, NULL), WG_ERR_UNKNOWN_HANDLE, "handle");
  CHECK_FAILS(wg_set_mtu(a.handle, 1280), WG_ERR_UNKNOWN_HANDLE, "handle");
}

static int gone;

static void counts(void *user) {
  CHECK(user == &gone);
  __sync_fetch_and_add(&gone, 1);
}

/* Each of both has its `destroy` called before a call that fails returns. */
static void what_is_not_used_is_given_up_once(void) {
  wg_tun_callbacks_t tun = WG_TUN_CALLBACKS_INIT;
  wg_transport_t transport = WG_TRANSPORT_INIT;
  wg_options_t options = WG_OPTIONS_INIT;
  struct {
    wg_tun_callbacks_t known;
    void *future;
  } newer = {WG_TUN_CALLBACKS_INIT, &gone};
  struct {
    wg_options_t known;
    void *future;
  } newer_options = {WG_OPTIONS_INIT, &gone};
  struct end taken = turn_on(SOCK_DGRAM, "");
  int tasks = threads(), fds = open_fds();
  int32_t enough;
  char text[64];
  tun.write = node_write;
  transport.send = node_send;
  tun.user = transport.user = newer.known.user = &gone;
  tun.destroy = transport.destroy = newer.known.destroy = counts;
  options.tun = newer_options.known.tun = &tun;
  options.transport = newer_options.known.transport = &transport;

#define GIVEN_UP(options, uapi, code, text, times)            \
  do {                                                        \
    gone = 0;                                                 \
    CHECK_FAILS(wg_turn_on_with(options, uapi), code, text);  \
    CHECK_EQ(gone, times);                                    \
  } while (0)
  GIVEN_UP(&options, NULL, WG_ERR_NULL, "uapi is NULL", 2);
  GIVEN_UP(&options, "nonsense", WG_ERR_PROTOCOL, "line 1", 2);
  options.tun_fd = 0;
  GIVEN_UP(&options, "", WG_ERR_INVALID, "tun is set, and tun_fd is 0", 2);
  options.tun_fd = -1;
  options.mtu = 1;
  GIVEN_UP(&options, "", WG_ERR_INVALID, "mtu", 2);
  options.mtu = 0;
  options.memory_limit = WG_MEMORY_MIN + 2 * 131072 - 1;
  GIVEN_UP(&options, "", WG_ERR_INVALID, "less than 1835008, with packets or datagrams of the app", 2);
  options.memory_limit++;
  gone = 0;
  enough = wg_turn_on_with(&options, "");
  CHECK(enough > 0 && wg_turn_off(enough) == WG_OK && gone == 2);
  options.memory_limit = 0;
  tun.write = NULL;
  GIVEN_UP(&options, "", WG_ERR_NULL, "tun: write is NULL", 2);
  tun.write = node_write;
  transport.send = NULL;
  GIVEN_UP(&options, "", WG_ERR_NULL, "transport: send is NULL", 2);
  transport.send = node_send;
  options.tun = NULL;
  GIVEN_UP(&options, "", WG_ERR_INVALID, "descriptor -1", 1);
  options.tun = &newer.known;
  newer.known.write = node_write;
  newer.known.struct_size = sizeof newer;
  GIVEN_UP(&options, "", WG_ERR_UNSUPPORTED, "tun: a field", 2);
  newer_options.known.struct_size = sizeof newer_options;
  GIVEN_UP(&newer_options.known, "", WG_ERR_UNSUPPORTED, "options: a field", 2);
  /* What has no size cannot be read. */
  newer.known.struct_size = 1;
  GIVEN_UP(&options, "", WG_ERR_INVALID, "tun: struct_size is 1", 1);
  GIVEN_UP(NULL, "", WG_ERR_NULL, "options is NULL", 0);
  /* After everything was made. */
  options.tun = &tun;
  options.transport = NULL;
  snprintf(text, sizeof text, "listen_port=%d\n", listen_port(taken.handle));
  GIVEN_UP(&options, text, WG_ERR_ADDR_IN_USE, "port", 1);
  CHECK_EQ(open_fds(), fds);
  check_threads(tasks);
  turn_off(taken);
}

/* What callbacks may do. */

static void tries_everything(struct node *node) {
  unsigned char bytes[100] = {0};
  wg_packet_t packet = {bytes, sizeof bytes};
  wg_endpoint_t peer = endpoint_of(9);
  wg_datagram_t datagram = datagram_from(&peer, bytes, sizeof bytes);
  wg_tun_callbacks_t tun = WG_TUN_CALLBACKS_INIT;
  wg_options_t options = WG_OPTIONS_INIT;
  char *text = NULL;
  size_t taken = 0;
  CHECK_EQ(wg_tun_inject(node->called_as, &packet, 1, &taken), WG_OK);
  CHECK_EQ(taken, 1);
  CHECK_EQ(wg_transport_receive(node->called_as, &datagram, 1, NULL), WG_OK);
  CHECK_EQ(wg_set_mtu(node->called_as, 1280), WG_OK);
  CHECK_EQ(wg_set_mtu(node->called_as, 1420), WG_OK);
  CHECK_EQ(wg_set_log_level(WG_LOG_INFO), WG_OK);
  CHECK_FAILS(wg_turn_off(node->called_as), WG_ERR_BUSY, "inside a callback");
  CHECK_FAILS(wg_set_config(node->called_as, ""), WG_ERR_BUSY, "inside a callback");
  CHECK_FAILS(wg_get_config(node->called_as, &text), WG_ERR_BUSY, "inside a callback");
  CHECK_FAILS(wg_set_log_callback(NULL, NULL, NULL), WG_ERR_BUSY, "inside a callback");
  CHECK_FAILS(wg_turn_on(-1, ""), WG_ERR_BUSY, "inside a callback");
  tun.write = node_write;
  tun.user = &gone;
  tun.destroy = counts;
  options.tun = &tun;
  __sync_fetch_and_add((int *)node->test, 1);
  CHECK_FAILS(wg_turn_on_with(&options, ""), WG_ERR_BUSY, "inside a callback");
}

static void write_tries_everything(struct node *node, const wg_packet_t *packets, size_t count) {
  (void)packets, (void)count;
  tries_everything(node);
}

static size_t send_tries_everything(struct node *node, const wg_datagram_t *datagrams, size_t count) {
  tries_everything(node);
  return carry(node, datagrams, count);
}

static void callbacks_may_pass_packets_in_and_not_more(void) {
  struct node a, b;
  int refused = 0;
  init_node(&a, 1);
  init_node(&b, 2);
  a.test = b.test = &refused;
  a.on_write = b.on_write = write_tries_everything;
  a.on_send = b.on_send = send_tries_everything;
  gone = 0;
  turn_nodes_on(&a, &b);
  CHECK_EQ(inject_equal(&a, 100, 10), 10);
  wait_for(&b, &b.packets, 10);
  CHECK_EQ(inject_equal(&b, 100, 10), 10);
  wait_for(&a, &a.packets, 10);
  turn_node_off(&a);
  turn_node_off(&b);
  CHECK(refused > 4);
  CHECK_EQ(gone, refused);
}

/* An app that answers from inside `write` needs no thread of its own. */
static void answers(struct node *node, const wg_packet_t *packets, size_t count) {
  unsigned char bytes[1500];
  wg_packet_t packet = {bytes, 0};
  size_t i, taken;
  for (i = 0; i < count; i++) {
    memcpy(bytes, packets[i].data, packets[i].len);
    memcpy(bytes + 12, packets[i].data + 16, 4);
    memcpy(bytes + 16, packets[i].data + 12, 4);
    packet.len = packets[i].len;
    CHECK_EQ(wg_tun_inject(node->handle, &packet, 1, &taken), WG_OK);
    CHECK_EQ(taken, 1);
  }
}

static void answers_come_from_inside_callbacks(void) {
  struct node a, b;
  int i;
  init_node(&a, 1);
  init_node(&b, 2);
  b.on_write = answers;
  turn_nodes_on(&a, &b);
  for (i = 1; i <= 200; i++) {
    CHECK_EQ(inject_equal(&a, 64, 5), 5);
    wait_for(&a, &a.packets, 5 * i);
  }
  turn_node_off(&a);
  turn_node_off(&b);
}

static size_t sends_early(struct node *node, const wg_datagram_t *datagrams, size_t count) {
  (void)datagrams;
  tries_everything(node);
  return count;
}

static void a_handle_is_known_before_its_tunnel_is_on(void) {
  struct node a;
  char text[512], uapi[1024];
  int refused = 0;
  init_node(&a, 1);
  a.test = &refused;
  a.on_send = sends_early;
  snprintf(uapi, sizeof uapi, "private_key=%s\n%s", PRIVATE_A,
           peer_of(&a, text, sizeof text, "persistent_keepalive_interval=1\n"));
  a.handle = turn_node_on(&a, uapi);
  CHECK(a.sends >= 1 && refused >= 1); /* the first initiation, on this thread */
  CHECK_EQ(a.called_as, a.handle);
  turn_node_off(&a);
}

static size_t waits_for_the_test(struct node *node, const wg_datagram_t *datagrams, size_t count) {
  (void)datagrams;
  pthread_mutex_lock(&node->lock);
  while (!*(int *)node->test) pthread_cond_wait(&node->changed, &node->lock);
  pthread_mutex_unlock(&node->lock);
  return count;
}

static void release(struct node *node) {
  pthread_mutex_lock(&node->lock);
  *(int *)node->test = 1;
  pthread_cond_broadcast(&node->changed);
  pthread_mutex_unlock(&node->lock);
}

/* One callback hangs: no call needs what it holds, none waits for it, and what waits for it is bounded. */
static void a_callback_that_hangs_holds_up_nobody_else(void) {
  struct node a;
  wg_endpoint_t peer = endpoint_of(2);
  wg_datagram_t datagrams[1000];
  unsigned char bytes[1452] = {0};
  wg_memory_usage_t usage;
  char text[512];
  size_t taken, all = 0, i, empty;
  int go_on = 0;
  init_node(&a, 1);
  a.test = &go_on;
  a.on_send = waits_for_the_test;
  CHECK((a.handle = turn_node_on(&a, "private_key=" PRIVATE_A "\n")) > 0);
  CHECK_EQ(wg_set_config(a.handle, peer_of(&a, text, sizeof text, "")), WG_OK);
  CHECK_EQ(inject_equal(&a, 1420, 1), 1);
  wait_for(&a, &a.inside, 1); /* the initiation, on the tunnel's thread */
  /* None of these waits for it: it goes on only after them. */
  wg_free(get(a.handle));
  CHECK_EQ(wg_set_config(a.handle, "public_key=" PUBLIC_B "\nallowed_ip=10.9.0.0/24\n"), WG_OK);
  CHECK_EQ(wg_set_mtu(a.handle, 1280), WG_OK);
  usage.struct_size = sizeof usage;
  CHECK_EQ(wg_memory_usage(a.handle, &usage), WG_OK);
  empty = (size_t)usage.buffers;
  for (i = 0; i < 10; i++) all += inject_equal(&a, 1420, 100);
  CHECK(all >= 256 && all * 1420 < 512 * 1024);
  /* What waits is counted with the buffers. */
  CHECK_EQ(wg_memory_usage(a.handle, &usage), WG_OK);
  CHECK(usage.buffers >= empty + all * 1420 && usage.total <= usage.limit);
  CHECK_EQ(inject_equal(&a, 1420, 1), 0);
  CHECK_EQ(a.rooms, 0);
  for (i = 0; i < 1000; i++) {
    datagrams[i] = datagram_from(&peer, bytes, sizeof bytes);
  }
  CHECK_EQ(wg_transport_receive(a.handle, datagrams, 1000, &taken), WG_OK);
  CHECK(taken >= 256 && taken * sizeof bytes < 512 * 1024);
  CHECK_EQ(wg_memory_usage(a.handle, &usage), WG_OK);
  CHECK(usage.buffers >= empty + all * 1420 + taken * sizeof bytes && usage.total <= usage.limit);
  release(&a);
  wait_for(&a, &a.rooms, 1);
  CHECK(inject_equal(&a, 1420, 100) == 100);
  turn_node_off(&a);
}

static size_t sends_half(struct node *node, const wg_datagram_t *datagrams, size_t count) {
  size_t half = count / 2;
  if (!*(int *)node->test) return carry(node, datagrams, count);
  CHECK_EQ(carry(node, datagrams, half), half);
  return half;
}

static size_t counts_wrong(struct node *node, const wg_datagram_t *datagrams, size_t count) {
  carry(node, datagrams, count);
  return SIZE_MAX;
}

static void a_send_may_fail(void) {
  struct node a, b;
  char *text;
  int fails = 0, tries, counted;
  init_node(&a, 1);
  init_node(&b, 2);
  a.test = &fails;
  a.on_send = sends_half;
  turn_nodes_on(&a, &b);
  CHECK_EQ(inject_equal(&a, 100, 1), 1);
  wait_for(&b, &b.packets, 1);
  /* The answer is taken by the thread that has sent the packet: it is done with that, or the batch would be staged, and
     leave in smaller ones. */
  CHECK_EQ(inject_equal(&b, 100, 1), 1);
  wait_for(&a, &a.packets, 1);
  release(&a);
  CHECK_EQ(inject_equal(&a, 100, 100), 100);
  wait_for(&b, &b.packets, 51);
  wait_for(&a, &a.sends, 3);
  sleep_ms(20);
  CHECK_EQ(b.packets, 51);
  /* 148 bytes of handshake and a packet of 144, and nothing of the batch that was not sent whole. They count once the
     send has returned, which may be after the packet has arrived. */
  for (tries = 0, counted = 0; !counted; tries++) {
    CHECK(tries < TRIES);
    sleep_ms(2);
    text = get(a.handle);
    counted = strstr(text, "\ntx_bytes=292\n") != NULL;
    wg_free(text);
  }
  a.on_send = counts_wrong;
  CHECK_EQ(inject_equal(&a, 100, 100), 100);
  wait_for(&b, &b.packets, 151);
  turn_node_off(&a);
  turn_node_off(&b);
}

/* Padding ends at the MTU. */
static void the_mtu_may_change(void) {
  static const int mtus[] = {1420, 1285, 600, 1401};
  struct node a, b;
  int i, sent = 0;
  init_node(&a, 1);
  init_node(&b, 2);
  turn_nodes_on(&a, &b);
  for (i = 0; i < 4; i++) {
    size_t largest = 0;
    int tries;
    CHECK_EQ(wg_set_mtu(a.handle, (uint32_t)mtus[i]), WG_OK);
    /* The tunnel takes note of it soon. Each message has 16 bytes of header and 16 of tag. */
    for (tries = 0; largest != (size_t)mtus[i] + 32; tries++) {
      CHECK(tries < TRIES);
      pthread_mutex_lock(&a.lock);
      a.largest_datagram = 0;
      pthread_mutex_unlock(&a.lock);
      CHECK_EQ(inject_equal(&a, mtus[i], 1), 1);
      wait_for(&b, &b.packets, ++sent);
      pthread_mutex_lock(&a.lock);
      largest = a.largest_datagram;
      pthread_mutex_unlock(&a.lock);
    }
  }
  turn_node_off(&a);
  turn_node_off(&b);
}

/* The end. */

static void takes_long(struct node *node, const wg_packet_t *packets, size_t count) {
  (void)node, (void)packets, (void)count;
  sleep_ms(100);
}

static size_t sends_slowly(struct node *node, const wg_datagram_t *datagrams, size_t count) {
  (void)node, (void)datagrams;
  sleep_ms(100);
  return count;
}

static void *wants_a_keepalive(void *argument) {
  struct node *node = argument;
  char text[512];
  wg_set_config(node->handle, peer_of(node, text, sizeof text, "persistent_keepalive_interval=1\n"));
  return NULL;
}

static void turning_off_waits_for_callbacks(void) {
  struct node a, b;
  pthread_t thread;
  init_node(&a, 1);
  init_node(&b, 2);
  b.on_write = takes_long;
  turn_nodes_on(&a, &b);
  CHECK_EQ(inject_equal(&a, 100, 1), 1);
  wait_for(&b, &b.writes, 1);
  turn_node_off(&b); /* `leave` and `node_destroyed` check the order */
  CHECK_EQ(b.packets, 1);
  turn_node_off(&a);

  /* On a thread that is not the tunnel's. */
  init_node(&a, 1);
  a.on_send = sends_slowly;
  CHECK((a.handle = turn_node_on(&a, "private_key=" PRIVATE_A "\n")) > 0);
  start(&thread, wants_a_keepalive, &a);
  wait_for(&a, &a.inside, 1);
  turn_node_off(&a);
  join(thread);
}

/* A node on the heap whose `destroy` frees it, so that a sanitizer sees a callback that comes too late. */
struct mortal {
  int32_t handle;
  int *destroyed;
  unsigned char bytes[64];
};

static size_t mortal_write(void *user, int32_t handle, const wg_packet_t *packets, size_t count) {
  struct mortal *mortal = user;
  (void)packets;
  CHECK(handle > 0 && mortal->bytes[63] == 0);
  return count;
}

static size_t mortal_send(void *user, int32_t handle, const wg_datagram_t *datagrams, size_t count) {
  struct mortal *mortal = user;
  CHECK(handle > 0 && mortal->bytes[63] == 0);
  if (*(const unsigned char *)datagrams[0].data != 4) sleep_ms(1);
  return count;
}

static void mortal_destroyed(void *user) {
  struct mortal *mortal = user;
  __sync_fetch_and_add(mortal->destroyed, 1);
  free(mortal);
}

static struct mortal *new_mortal(int *destroyed) {
  struct mortal *mortal = calloc(1, sizeof *mortal);
  CHECK(mortal != NULL);
  mortal->destroyed = destroyed;
  return mortal;
}

struct race {
  int32_t handle;
  int number;
};

static void *floods(void *argument) {
  struct race *race = argument;
  unsigned char bytes[200];
  wg_packet_t packets[64];
  wg_endpoint_t peer = endpoint_of(2);
  wg_datagram_t datagrams[64];
  wg_result_t result = WG_OK;
  int i, round;
  make_packet(bytes, sizeof bytes, 1, 2, 0);
  for (i = 0; i < 64; i++) {
    datagrams[i] = datagram_from(&peer, bytes, sizeof bytes);
    packets[i].data = bytes;
    packets[i].len = sizeof bytes;
  }
  for (round = 0; result == WG_OK; round++) {
    switch (race->number) {
    case 0:
    case 1: result = wg_tun_inject(race->handle, packets, 64, NULL); break;
    case 2: result = wg_transport_receive(race->handle, datagrams, 64, NULL); break;
    case 3: result = wg_set_mtu(race->handle, 1280 + (uint32_t)(round & 63)); break;
    default:
      /* A new handshake each time, and `send` on this thread. */
      result = wg_set_config(race->handle, "replace_peers=true\npublic_key=" PUBLIC_B "\nendpoint=192.0.2.2:51820\n"
                                           "persistent_keepalive_interval=1\nallowed_ip=10.9.0.2/32\n");
    }
  }
  CHECK_EQ(result, WG_ERR_UNKNOWN_HANDLE);
  return NULL;
}

static void nothing_comes_after_the_end(void) {
  int round, i, destroyed = 0, fds = open_fds(), tasks = threads();
  for (round = 1; round <= 30; round++) {
    wg_tun_callbacks_t tun = WG_TUN_CALLBACKS_INIT;
    wg_transport_t transport = WG_TRANSPORT_INIT;
    wg_options_t options = WG_OPTIONS_INIT;
    pthread_t flood[6];
    struct race race[6];
    int32_t handle;
    tun.write = mortal_write;
    tun.user = new_mortal(&destroyed);
    transport.send = mortal_send;
    transport.user = new_mortal(&destroyed);
    tun.destroy = transport.destroy = mortal_destroyed;
    options.tun = &tun;
    options.transport = &transport;
    handle = wg_turn_on_with(&options, "private_key=" PRIVATE_A "\n");
    CHECK(handle > 0);
    for (i = 0; i < 6; i++) {
      race[i].handle = handle;
      race[i].number = i;
      start(&flood[i], floods, &race[i]);
    }
    sleep_ms(round % 5);
    CHECK_EQ(wg_turn_off(handle), WG_OK);
    CHECK_EQ(destroyed, 2 * round);
    for (i = 0; i < 6; i++) join(flood[i]);
  }
  CHECK_EQ(open_fds(), fds);
  check_threads(tasks);
}

int main(void) {
  alarm(120); /* it takes two seconds, unless something hangs */
  packets_pass_in_batches();
  the_other_end_may_be_the_systems();
  what_the_app_passes_is_checked();
  what_is_not_used_is_given_up_once();
  callbacks_may_pass_packets_in_and_not_more();
  answers_come_from_inside_callbacks();
  a_handle_is_known_before_its_tunnel_is_on();
  a_callback_that_hangs_holds_up_nobody_else();
  a_send_may_fail();
  the_mtu_may_change();
  turning_off_waits_for_callbacks();
  nothing_comes_after_the_end();
  return 0;
}
