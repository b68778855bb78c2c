/* Numbers: what a tunnel and its peers did so far. */
#include "check.h"

static wg_stats_t stats(struct end end) {
  wg_stats_t stats;
  memset(&stats, 0xaa, sizeof stats);
  stats.struct_size = sizeof stats;
  CHECK_EQ(wg_stats(end.handle, &stats), WG_OK);
  CHECK_EQ(stats.struct_size, sizeof stats);
  return stats;
}

static wg_counter_t counters[64];

static size_t read_counters(struct end end) {
  size_t count = 0, i, j;
  CHECK_EQ(wg_counters(end.handle, counters, 64, &count), WG_OK);
  CHECK(count > 20 && count <= 64);
  for (i = 0; i < count; i++) {
    CHECK(strlen(counters[i].name) > 3 && strlen(counters[i].name) < WG_COUNTER_NAME_LEN);
    for (j = 0; j < i; j++) CHECK(strcmp(counters[i].name, counters[j].name) != 0);
  }
  return count;
}

/* The sum of the counters whose names begin so. */
static uint64_t sum(struct end end, const char *prefix) {
  uint64_t sum = 0;
  size_t count = read_counters(end), i;
  for (i = 0; i < count; i++)
    if (strncmp(counters[i].name, prefix, strlen(prefix)) == 0) sum += counters[i].value;
  return sum;
}

/* What has arrived may be counted a moment later. */
#define WAIT_FOR(condition)                                          \
  do {                                                               \
    int tries_;                                                      \
    for (tries_ = 0; tries_ < TRIES && !(condition); tries_++) sleep_ms(2); \
    CHECK(condition);                                                \
  } while (0)

static void everything_is_counted(void) {
  static const char *const names[] = {"out_no_peer", "out_memory_full", "in_replayed", "handshake_bad_mac", "udp_truncated",
                                      "out_unreadable"};
  uint8_t key_b[WG_KEY_LEN];
  unsigned char packet[100];
  struct sockaddr_in to;
  wg_peer_stats_t peer;
  wg_stats_t of_a, of_b;
  struct end a, b;
  time_t began = time(NULL);
  size_t i;
  int fd, sent;
  key_bytes(PUBLIC_B, key_b);
  turn_on_both(SOCK_DGRAM, &a, &b);
  of_a = stats(a);
  CHECK_EQ(of_a.peers, 1);
  CHECK_EQ(of_a.rx_bytes + of_a.tx_bytes + of_a.rx_packets + of_a.tx_packets + of_a.rx_dropped + of_a.tx_dropped, 0);
  memset(&peer, 0xaa, sizeof peer);
  peer.struct_size = sizeof peer;
  CHECK_EQ(wg_peer_stats(a.handle, key_b, &peer), WG_OK);
  CHECK_EQ(peer.struct_size, sizeof peer);
  CHECK_EQ(peer.rx_bytes + peer.tx_bytes, 0);
  CHECK_EQ(peer.last_handshake_sec + peer.last_handshake_nsec, 0);
  CHECK_EQ(peer.persistent_keepalive + peer.has_session + peer.staged_packets, 0);
  CHECK_EQ(peer.next_timer_ms, UINT32_MAX);

  check_exchange(a, b);
  WAIT_FOR(stats(a).tx_packets == 30 && stats(b).tx_packets == 30);
  WAIT_FOR(stats(a).rx_packets == 30 && stats(b).rx_packets == 30);
  WAIT_FOR(stats(a).tx_bytes == stats(b).rx_bytes && stats(b).tx_bytes == stats(a).rx_bytes);
  of_a = stats(a);
  of_b = stats(b);
  /* 6 lengths, padded to 16 or the MTU, 5 times, each with 32 bytes; and an initiation or a response. */
  CHECK_EQ(of_a.tx_bytes + of_b.tx_bytes, 2 * 5 * (32 + 32 + 112 + 576 + 1420 + 1420 + 6 * 32) + 148 + 92);
  CHECK_EQ(of_a.tx_dropped + of_a.rx_dropped + of_b.tx_dropped + of_b.rx_dropped, 0);
  CHECK_EQ(wg_peer_stats(a.handle, key_b, &peer), WG_OK);
  CHECK_EQ(peer.rx_bytes, of_a.rx_bytes);
  CHECK_EQ(peer.tx_bytes, of_a.tx_bytes);
  CHECK(peer.last_handshake_sec >= began && peer.last_handshake_sec <= time(NULL));
  CHECK(peer.last_handshake_nsec < 1000000000);
  CHECK_EQ(peer.has_session, 1);
  CHECK(peer.next_timer_ms <= 540000);
  CHECK_EQ(memcmp(peer.public_key, key_b, WG_KEY_LEN), 0);
  CHECK_EQ(wg_set_config(a.handle, "public_key=" PUBLIC_B "\npersistent_keepalive_interval=25\n"), WG_OK);
  CHECK_EQ(wg_peer_stats(a.handle, key_b, &peer), WG_OK);
  CHECK_EQ(peer.persistent_keepalive, 25);
  CHECK(peer.next_timer_ms <= 25000);

  /* Each reason has its counter. */
  for (i = 0; i < sizeof names / sizeof names[0]; i++) CHECK_EQ(counter(a, names[i]), 0);
  make_packet(packet, 100, 1, 77, 0);
  for (sent = 0; sent < 3; sent++) CHECK_EQ(send(a.app, packet, 100, 0), 100);
  CHECK_EQ(send(a.app, "not IP", 6, 0), 6);
  WAIT_FOR(stats(a).tx_dropped == 4);
  CHECK_EQ(counter(a, "out_no_peer"), 3);
  CHECK_EQ(counter(a, "out_malformed"), 1);
  fd = socket(AF_INET, SOCK_DGRAM, 0);
  memset(&to, 0, sizeof to);
  to.sin_family = AF_INET;
  to.sin_port = htons((uint16_t)listen_port(a.handle));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  CHECK_EQ(sendto(fd, "not WireGuard", 13, 0, (struct sockaddr *)&to, sizeof to), 13);
  WAIT_FOR(stats(a).rx_dropped == 1);
  CHECK_EQ(counter(a, "in_malformed"), 1);
  close(fd);
  CHECK_EQ(sum(a, "out_"), stats(a).tx_dropped);
  CHECK_EQ(sum(a, "in_"), stats(a).rx_dropped);

  /* A peer that is gone stays in the sums. */
  of_a = stats(a);
  CHECK_EQ(wg_set_config(a.handle, "replace_peers=true\n"), WG_OK);
  CHECK_EQ(stats(a).peers, 0);
  CHECK_EQ(stats(a).tx_bytes, of_a.tx_bytes);
  CHECK_FAILS(wg_peer_stats(a.handle, key_b, &peer), WG_ERR_NOT_FOUND, "no peer EyxEK");
  turn_off(a);
  turn_off(b);
}

static void a_part_of_the_counters_can_be_read(void) {
  struct end a = turn_on(SOCK_DGRAM, "");
  size_t all = 0, count = 0;
  wg_counter_t *two = malloc(2 * sizeof *two);
  CHECK(two != NULL);
  CHECK_EQ(wg_counters(a.handle, NULL, 0, &all), WG_OK);
  CHECK_EQ(read_counters(a), all);
  CHECK_EQ(wg_counters(a.handle, two, 2, &count), WG_OK);
  CHECK_EQ(count, all);
  CHECK_TEXT(two[1].name, counters[1].name);
  count = 7;
  CHECK_FAILS(wg_counters(a.handle, NULL, 1, &count), WG_ERR_NULL, "counters is NULL");
  CHECK_FAILS(wg_counters(a.handle, two, 2, NULL), WG_ERR_NULL, "count is NULL");
  CHECK_FAILS(wg_counters(-1, two, 2, &count), WG_ERR_UNKNOWN_HANDLE, "handle");
  CHECK_EQ(count, 7);
  free(two);
  turn_off(a);
}

#define PEERS 5

static struct end with_peers(void) {
  char uapi[PEERS * 200 + 100] = "private_key=" PRIVATE_A "\n";
  int i;
  for (i = 0; i < PEERS; i++)
    sprintf(uapi + strlen(uapi), "public_key=%02x%s\nendpoint=[2001:db8::%x]:5%d\npersistent_keepalive_interval=%d\n",
            200 - i, PSK + 2, i + 1, i, i + 1);
  return turn_on(SOCK_DGRAM, uapi);
}

static void check_peer(const wg_peer_stats_t *peer, int i) {
  char endpoint[64];
  CHECK_EQ(peer->public_key[0], 200 - i);
  CHECK_EQ(peer->public_key[31], 3);
  CHECK_EQ(peer->persistent_keepalive, i + 1);
  snprintf(endpoint, sizeof endpoint, "[2001:db8::%x]:5%d", i + 1, i);
  CHECK_TEXT(peer->endpoint, endpoint);
}

/* As " * - NAME: ...", and no other. Bindings pass the names on as they are. */
static void the_header_lists_the_counters(void) {
  struct end a = turn_on(SOCK_DGRAM, "");
  size_t count = read_counters(a), listed = 0, i;
  char line[200], name[WG_COUNTER_NAME_LEN], colon;
  FILE *header = fopen("include/wg_embed.h", "r");
  CHECK(header != NULL);
  while (fgets(line, sizeof line, header) != NULL) {
    if (sscanf(line, " * - %39[a-z_]%c", name, &colon) != 2 || colon != ':') continue;
    for (i = 0; i < count && strcmp(counters[i].name, name) != 0;) i++;
    if (i == count) fprintf(stderr, "there is no counter %s\n", name);
    CHECK(i < count);
    listed++;
  }
  CHECK_EQ(listed, count);
  CHECK_EQ(fclose(header), 0);
  turn_off(a);
}

static void all_peers_can_be_read(void) {
  struct end a = with_peers();
  struct {
    wg_peer_stats_t known;
    uint64_t future[2];
  } newer[PEERS];
  size_t capacity, count, i, j;
  for (capacity = 0; capacity <= PEERS + 2; capacity++) {
    /* Exactly so many, so that a sanitizer sees a write beyond them. */
    wg_peer_stats_t *peers = capacity == 0 ? NULL : malloc(capacity * sizeof *peers);
    if (capacity > 0) memset(peers, 0xaa, capacity * sizeof *peers), peers->struct_size = sizeof *peers;
    count = 99;
    CHECK_EQ(wg_peers(a.handle, peers, capacity, &count), WG_OK);
    CHECK_EQ(count, PEERS);
    for (i = 0; i < capacity && i < PEERS; i++) {
      check_peer(&peers[i], (int)i);
      CHECK_EQ(peers[i].struct_size, sizeof *peers);
    }
    if (capacity > PEERS) CHECK_EQ(peers[PEERS].public_key[0], 0xaa);
    if (capacity > 0) {
      CHECK_FAILS(wg_peers(-1, peers, capacity, &count), WG_ERR_UNKNOWN_HANDLE, "handle");
      CHECK_FAILS(wg_peers(a.handle, peers, capacity, NULL), WG_ERR_NULL, "count is NULL");
    }
    free(peers);
  }
  CHECK_FAILS(wg_peers(a.handle, NULL, 1, &count), WG_ERR_NULL, "peers is NULL");

  memset(newer, 0xaa, sizeof newer);
  newer[0].known.struct_size = sizeof newer[0];
  CHECK_EQ(wg_peers(a.handle, &newer[0].known, PEERS, &count), WG_OK);
  for (i = 0; i < PEERS; i++) {
    check_peer(&newer[i].known, (int)i);
    CHECK_EQ(newer[i].known.struct_size, sizeof newer[0]);
    for (j = 0; j < 2; j++) CHECK_EQ(newer[i].future[j], 0);
  }
  turn_off(a);
}

int main(void) {
  everything_is_counted();
  a_part_of_the_counters_can_be_read();
  the_header_lists_the_counters();
  all_peers_can_be_read();
  return 0;
}
