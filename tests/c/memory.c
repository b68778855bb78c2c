/* Memory: what a tunnel takes, what it gives back, and what happens at its limit. */
#include "check.h"

static wg_memory_usage_t usage(struct end end) {
  wg_memory_usage_t usage;
  memset(&usage, 0xaa, sizeof usage);
  usage.struct_size = sizeof usage;
  CHECK_EQ(wg_memory_usage(end.handle, &usage), WG_OK);
  CHECK_EQ(usage.total, usage.buffers + usage.staged + usage.peers);
  CHECK(usage.buffers + usage.staged <= usage.limit);
  return usage;
}

static struct end turn_on_limited(size_t limit, const char *uapi) {
  wg_options_t options = WG_OPTIONS_INIT;
  struct end end;
  int pair[2];
  make_pair(SOCK_SEQPACKET, pair);
  options.tun_fd = pair[0];
  options.memory_limit = limit;
  end.handle = wg_turn_on_with(&options, uapi);
  CHECK(end.handle > 0);
  end.app = pair[1];
  return end;
}

/* What the threads work in at a moment is left to them. */
static void trim(struct end end) {
  int tries = 0;
  do {
    if (tries > 0) sleep_ms(2);
    CHECK_EQ(wg_trim(end.handle), WG_OK);
  } while (usage(end).buffers != 0 && ++tries < TRIES);
  CHECK_EQ(usage(end).buffers, 0);
}

static void the_limit_is_told(void) {
  static const size_t limits[] = {0, WG_MEMORY_MIN, WG_MEMORY_MIN + 1, WG_MEMORY_MAX};
  size_t i;
  for (i = 0; i < sizeof limits / sizeof limits[0]; i++) {
    struct end a = turn_on_limited(limits[i], "");
    CHECK_EQ(usage(a).limit, limits[i] == 0 ? 4 << 20 : limits[i]);
    CHECK_EQ(usage(a).staged, 0);
    turn_off(a);
  }
  CHECK_FAILS(wg_trim(-1), WG_ERR_UNKNOWN_HANDLE, "handle");
}

static void buffers_come_and_go(void) {
  struct end a, b;
  int i;
  turn_on_both(SOCK_DGRAM, &a, &b);
  for (i = 0; i < 3; i++) {
    check_exchange(a, b);
    /* 8 slots of 64 KiB to receive, 192 KiB to send. */
    CHECK(usage(a).buffers > 700 * 1000);
    CHECK(usage(a).peers > 1000);
    trim(a);
    CHECK_EQ(usage(a).staged, 0);
  }
  /* Sessions stay. */
  CHECK(usage(a).peers > 2000);
  turn_off(a);
  turn_off(b);
}

static void peers_are_counted(void) {
  enum { MANY = 1000 };
  struct end a = turn_on(SOCK_DGRAM, "private_key=" PRIVATE_A "\n");
  size_t before = usage(a).peers, with;
  char *uapi = malloc(MANY * 200), *end = uapi;
  int i;
  CHECK(uapi != NULL);
  for (i = 0; i < MANY; i++)
    end += sprintf(end, "public_key=%04x%s\nallowed_ip=10.%d.%d.0/24\n", i + 1, PSK + 4, i >> 8, i & 255);
  CHECK(before < 1000);
  CHECK_EQ(wg_set_config(a.handle, uapi), WG_OK);
  with = usage(a).peers;
  CHECK(with > MANY * 500 && with < MANY * 2048);
  CHECK_EQ(wg_trim(a.handle), WG_OK);
  CHECK(usage(a).peers <= with && usage(a).peers > MANY * 500);
  CHECK_EQ(wg_set_config(a.handle, "replace_peers=true\n"), WG_OK);
  CHECK(usage(a).peers < with / 4);
  CHECK_EQ(wg_trim(a.handle), WG_OK);
  CHECK_EQ(usage(a).peers, before);
  free(uapi);
  turn_off(a);
}

/* Sends `count` full packets to 10.9.0.`to`. */
static void send_many(struct end a, int to, int count) {
  unsigned char packet[1420];
  int i;
  for (i = 0; i < count; i++) {
    make_packet(packet, 1420, 1, to, i);
    CHECK_EQ(send(a.app, packet, sizeof packet, 0), (ssize_t)sizeof packet);
  }
}

/* How many packets wait for all three peers; `*for_b` gets how many for the one that has PUBLIC_B. */
static size_t waiting_for(struct end a, size_t *for_b) {
  wg_peer_stats_t peers[3];
  size_t count, all = 0, i;
  peers[0].struct_size = sizeof peers[0];
  CHECK_EQ(wg_peers(a.handle, peers, 3, &count), WG_OK);
  CHECK_EQ(count, 3);
  for (i = 0; i < count; i++) {
    /* Of the three keys only this one begins so. */
    if (peers[i].public_key[0] == 0x13) *for_b = (size_t)peers[i].staged_packets;
    all += (size_t)peers[i].staged_packets;
  }
  return all;
}

static size_t waiting(struct end a) {
  size_t for_b;
  return waiting_for(a, &for_b);
}

/* A socket that takes whatever comes, and its port. */
static int silent_socket(int *port) {
  struct sockaddr_in here;
  socklen_t len = sizeof here;
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  memset(&here, 0, sizeof here);
  here.sin_family = AF_INET;
  CHECK_EQ(bind(fd, (struct sockaddr *)&here, sizeof here), 0);
  CHECK_EQ(getsockname(fd, (struct sockaddr *)&here, &len), 0);
  *port = ntohs(here.sin_port);
  return fd;
}

static void at_the_limit_packets_are_dropped_and_the_tunnel_goes_on(void) {
  /* Less than may wait for each of three peers, more than fits for all: about 140 do. */
  enum { EACH = 125, FLOOD = 2000 };
  char uapi[64], key[65];
  unsigned char got[2000];
  struct pollfd ready = {0, POLLIN, 0};
  struct end a = turn_on_limited(WG_MEMORY_MIN, "private_key=" PRIVATE_A "\n"), b;
  wg_memory_usage_t full, flooded;
  uint64_t dropped;
  size_t all, for_b = 0, n;
  int port, silent = silent_socket(&port), tries, i;
  add_peer(a, PUBLIC_B, port, 2);
  for (i = 3; i <= 4; i++) {
    snprintf(key, sizeof key, "%02x%s", i, PSK + 2);
    add_peer(a, key, port, i);
  }
  for (i = 2; i <= 4; i++) send_many(a, i, EACH);
  /* Together they say something only if no packet was dropped between one and the other. */
  for (tries = 0;; tries++) {
    dropped = counter(a, "out_memory_full");
    all = waiting_for(a, &for_b);
    if (counter(a, "out_memory_full") == dropped && all + dropped == 3 * EACH) break;
    CHECK(tries < TRIES);
    sleep_ms(2);
  }
  CHECK(all > EACH && all < EACH + 30);
  /* The first peer, which had all of it, has made room for the others. */
  CHECK(for_b >= all / 3 && for_b <= all / 3 + 2);
  full = usage(a);
  CHECK(full.staged > waiting(a) * 1452 - 1452 && full.staged < waiting(a) * (1452 + 128));

  /* More of them cost nothing. */
  send_many(a, 4, FLOOD);
  for (tries = 0; tries < TRIES && counter(a, "out_memory_full") < dropped + FLOOD; tries++) sleep_ms(2);
  CHECK_EQ(counter(a, "out_memory_full"), dropped + FLOOD);
  flooded = usage(a);
  CHECK_EQ(flooded.staged, full.staged);
  CHECK_EQ(flooded.total, full.total);
  CHECK_EQ(wg_trim(a.handle), WG_OK);
  CHECK_EQ(waiting(a), all);

  /* A peer appears: it gets what has waited for it, at the next try, in some 5 seconds. */
  close(silent);
  b = turn_on(SOCK_SEQPACKET, "private_key=" PRIVATE_B "\n");
  snprintf(uapi, sizeof uapi, "listen_port=%d\n", port);
  CHECK_EQ(wg_set_config(b.handle, uapi), WG_OK);
  add_peer(b, PUBLIC_A, listen_port(a.handle), 1);
  ready.fd = b.app;
  for (n = 0; n < for_b; n++) {
    CHECK_EQ(poll(&ready, 1, 60000), 1);
    CHECK_EQ(recv(b.app, got, sizeof got, 0), 1420);
  }
  /* There is room again. */
  dropped = counter(a, "out_memory_full");
  CHECK(usage(a).staged < full.staged * 3 / 4);
  send_many(a, 4, (int)for_b / 2);
  check_passes(a.app, b.app, 1, 2, 6);
  CHECK_EQ(counter(a, "out_memory_full"), dropped);
  CHECK(usage(a).staged > for_b / 2 * 1452);
  turn_off(a);
  turn_off(b);
}

int main(void) {
  int fds = open_fds(), tasks = threads();
  alarm(120); /* Whatever hangs, fails. */
  the_limit_is_told();
  buffers_come_and_go();
  peers_are_counted();
  at_the_limit_packets_are_dropped_and_the_tunnel_goes_on();
  CHECK_EQ(open_fds(), fds);
  check_threads(tasks);
  return 0;
}
