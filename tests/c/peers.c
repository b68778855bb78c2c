/* Peers one at a time: what a struct sets is what the same lines of text set, or is refused as they are. */
#include "check.h"

#define NO_KEY "0000000000000000000000000000000000000000000000000000000000000000"

static wg_peer_config_t peer_of(const char *key) {
  wg_peer_config_t peer = WG_PEER_CONFIG_INIT;
  key_bytes(key, peer.public_key);
  return peer;
}

static wg_allowed_ip_t prefix(const char *address, unsigned len, uint32_t flags) {
  wg_allowed_ip_t prefix = {0, 0, {0}, 0};
  prefix.family = strchr(address, ':') != NULL ? WG_IPV6 : WG_IPV4;
  prefix.prefix_len = len;
  prefix.flags = flags;
  CHECK_EQ(inet_pton(prefix.family == WG_IPV6 ? AF_INET6 : AF_INET, address, prefix.address), 1);
  return prefix;
}

static void check_same_config(struct end typed, struct end text) {
  char *a = get(typed.handle), *b = get(text.handle);
  CHECK_TEXT(a, b);
  wg_free(a);
  wg_free(b);
}

/* Each is applied to both, on top of what was there. Neither tunnel has a key, so that neither sends. */
static void a_struct_is_as_good_as_its_lines(void) {
  wg_allowed_ip_t some[4], taken[1], none[2];
  struct {
    const char *lines, *key, *endpoint;
    uint32_t flags, keepalive;
    const wg_allowed_ip_t *prefixes;
    size_t count;
  } cases[] = {
      {"public_key=" PUBLIC_A "\nupdate_only=true\nallowed_ip=10.0.0.0/8\n", PUBLIC_A, NULL, WG_PEER_UPDATE_ONLY, 0, some,
       1},
      {"public_key=" PUBLIC_A "\n", PUBLIC_A, NULL, 0, 0, NULL, 0},
      {"public_key=" PUBLIC_A "\nendpoint=192.0.2.1:51820\npersistent_keepalive_interval=25\n"
       "allowed_ip=10.0.0.0/8\nallowed_ip=2001:db8::/32\nallowed_ip=0.0.0.0/0\nallowed_ip=::1/128\n",
       PUBLIC_A, "192.0.2.1:51820", WG_PEER_HAS_KEEPALIVE, 25, some, 4},
      {"public_key=" PUBLIC_B "\npreshared_key=" PSK "\nendpoint=[fe80::1%7]:1\nallowed_ip=10.0.0.0/8\n", PUBLIC_B,
       "[fe80::1%7]:1", WG_PEER_HAS_PRESHARED_KEY, 0, some, 1},
      {"public_key=" PUBLIC_A "\nallowed_ip=-2001:db8::/32\n", PUBLIC_A, NULL, 0, 0, taken, 1},
      {"public_key=" PUBLIC_A "\nreplace_allowed_ips=true\nallowed_ip=0.0.0.0/0\nallowed_ip=-0.0.0.0/0\n", PUBLIC_A,
       NULL, WG_PEER_REPLACE_ALLOWED_IPS, 0, none, 2},
      {"public_key=" PUBLIC_B "\npersistent_keepalive_interval=65535\n", PUBLIC_B, NULL, WG_PEER_HAS_KEEPALIVE, 65535, none,
       0},
      {"public_key=" PUBLIC_B "\npersistent_keepalive_interval=0\npreshared_key=" NO_KEY "\nreplace_allowed_ips=true\n",
       PUBLIC_B, NULL, WG_PEER_HAS_KEEPALIVE | WG_PEER_HAS_PRESHARED_KEY | WG_PEER_REPLACE_ALLOWED_IPS, 0, NULL, 0},
  };
  struct end typed = turn_on(SOCK_DGRAM, "listen_port=0\n"), text = turn_on(SOCK_DGRAM, "listen_port=0\n");
  size_t i;
  CHECK_EQ(wg_pause(typed.handle), WG_OK);
  CHECK_EQ(wg_pause(text.handle), WG_OK);
  CHECK_EQ(wg_set_config(typed.handle, "listen_port=1\n"), WG_OK);
  CHECK_EQ(wg_set_config(text.handle, "listen_port=1\n"), WG_OK);
  some[0] = prefix("10.1.2.3", 8, 0); /* what is behind the prefix does not count */
  some[1] = prefix("2001:db8::77", 32, 0);
  some[2] = prefix("1.2.3.4", 0, 0);
  some[3] = prefix("::1", 128, 0);
  taken[0] = prefix("2001:db8::", 32, WG_ALLOWED_IP_REMOVE);
  none[0] = prefix("0.0.0.0", 0, 0);
  none[1] = prefix("0.0.0.0", 0, WG_ALLOWED_IP_REMOVE);
  for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    wg_peer_config_t peer = peer_of(cases[i].key);
    peer.flags = cases[i].flags;
    peer.endpoint = cases[i].endpoint;
    peer.persistent_keepalive = cases[i].keepalive;
    if (strstr(cases[i].lines, PSK) != NULL) key_bytes(PSK, peer.preshared_key);
    peer.allowed_ips = cases[i].prefixes;
    peer.allowed_ip_count = cases[i].count;
    CHECK_EQ(wg_set_config(text.handle, cases[i].lines), WG_OK);
    CHECK_EQ(wg_set_peer(typed.handle, &peer), WG_OK);
    check_same_config(typed, text);
  }
  turn_off(typed);
  turn_off(text);
}

static void what_is_wrong_changes_nothing(void) {
  struct end a = turn_on(SOCK_DGRAM, "public_key=" PUBLIC_A "\nallowed_ip=10.0.0.0/8\n");
  char *before = get(a.handle), *after;
  wg_peer_config_t right = peer_of(PUBLIC_A), peer;
  wg_allowed_ip_t prefixes[2];
  uint8_t key[WG_KEY_LEN];
  struct {
    wg_peer_config_t peer;
    uint64_t future;
  } newer;
  prefixes[0] = prefix("10.9.0.0", 16, 0);
  right.flags = WG_PEER_REPLACE_ALLOWED_IPS | WG_PEER_HAS_KEEPALIVE;
  right.persistent_keepalive = 25;
  right.allowed_ips = prefixes;
  right.allowed_ip_count = 2;

  prefixes[1] = prefix("10.8.0.0", 33, 0);
  CHECK_FAILS(wg_set_peer(a.handle, &right), WG_ERR_INVALID, "allowed_ips[1]: the prefix length");
  prefixes[1] = prefix("::", 129, 0);
  CHECK_FAILS(wg_set_peer(a.handle, &right), WG_ERR_INVALID, "allowed_ips[1]: the prefix length");
  prefixes[1].prefix_len = 264;
  CHECK_FAILS(wg_set_peer(a.handle, &right), WG_ERR_INVALID, "allowed_ips[1]: the prefix length");
  prefixes[1] = prefix("10.8.0.0", 16, 2);
  CHECK_FAILS(wg_set_peer(a.handle, &right), WG_ERR_INVALID, "allowed_ips[1]: flags is 0x2");
  prefixes[1] = prefix("10.8.0.0", 16, 0);
  prefixes[1].family = 2;
  CHECK_FAILS(wg_set_peer(a.handle, &right), WG_ERR_INVALID, "allowed_ips[1]: the family is 2");
  right.allowed_ip_count = 1;

#define REFUSED_WITH(change, code, text)                  \
  do {                                                    \
    peer = right;                                         \
    change;                                               \
    CHECK_FAILS(wg_set_peer(a.handle, &peer), code, text); \
  } while (0)
  REFUSED_WITH(peer.flags = 16, WG_ERR_INVALID, "flags is 0x10");
  /* What is set and would not count is a mistake, and a struct that nobody has filled is one. */
  REFUSED_WITH(peer.preshared_key[31] = 1, WG_ERR_INVALID, "WG_PEER_HAS_PRESHARED_KEY");
  REFUSED_WITH((peer.persistent_keepalive = 25, peer.flags = 0), WG_ERR_INVALID, "WG_PEER_HAS_KEEPALIVE");
  REFUSED_WITH(memset(peer.public_key, 0, WG_KEY_LEN), WG_ERR_INVALID, "public_key");
  REFUSED_WITH(peer.persistent_keepalive = 65536, WG_ERR_INVALID, "65536");
  REFUSED_WITH(peer.endpoint = "vpn.example.com:51820", WG_ERR_INVALID, "endpoint: not a numeric address");
  REFUSED_WITH(peer.endpoint = "192.0.2.1", WG_ERR_INVALID, "endpoint: ");
  REFUSED_WITH(peer.endpoint = "\xff", WG_ERR_INVALID, "endpoint is not UTF-8");
  REFUSED_WITH(peer.allowed_ips = NULL, WG_ERR_NULL, "allowed_ips is NULL");
  REFUSED_WITH(peer.allowed_ip_count = WG_ALLOWED_IPS_MAX + 1, WG_ERR_TOO_LARGE, "1048577 allowed_ips");
  REFUSED_WITH(peer.struct_size = sizeof peer - 1, WG_ERR_INVALID, "struct_size");
  newer.peer = right;
  newer.peer.struct_size = sizeof newer;
  newer.future = 1;
  CHECK_FAILS(wg_set_peer(a.handle, &newer.peer), WG_ERR_UNSUPPORTED, "does not know");
  CHECK_FAILS(wg_set_peer(a.handle, NULL), WG_ERR_NULL, "peer is NULL");
  CHECK_FAILS(wg_set_peer(-1, &right), WG_ERR_UNKNOWN_HANDLE, "handle");
  key_bytes(PUBLIC_B, key);
  CHECK_FAILS(wg_remove_peer(a.handle, key), WG_ERR_NOT_FOUND, "no peer EyxEK");
  CHECK_FAILS(wg_remove_peer(a.handle, NULL), WG_ERR_NULL, "the key is NULL");
  CHECK_FAILS(wg_remove_peer(-1, key), WG_ERR_UNKNOWN_HANDLE, "handle");
  after = get(a.handle);
  CHECK_TEXT(after, before);
  wg_free(after);

  newer.future = 0;
  CHECK_EQ(wg_set_peer(a.handle, &newer.peer), WG_OK);
  after = get(a.handle);
  CHECK(strstr(after, "persistent_keepalive_interval=25\nallowed_ip=10.9.0.0/16\n") != NULL);
  wg_free(after);
  wg_free(before);
  turn_off(a);
}

static struct end of_one_peer(void) {
  wg_options_t options = WG_OPTIONS_INIT;
  struct end end;
  int pair[2];
  make_pair(SOCK_DGRAM, pair);
  options.tun_fd = pair[0];
  options.max_peers = 1;
  options.resolve = wg_resolve_system;
  end.handle = wg_turn_on_with(&options, "private_key=" PRIVATE_A "\n");
  end.app = pair[1];
  CHECK(end.handle > 0);
  return end;
}

/* As a whole: two tunnels that know each other by nothing else, one of them by name. */
static void packets_pass(void) {
  struct end a = of_one_peer(), b = turn_on(SOCK_DGRAM, "private_key=" PRIVATE_B "\n");
  wg_peer_config_t of_b = peer_of(PUBLIC_B), of_a = peer_of(PUBLIC_A), third = peer_of(PSK);
  wg_allowed_ip_t ip_a = prefix("10.9.0.1", 32, 0), ip_b = prefix("10.9.0.2", 32, 0);
  char endpoint[64];
  wg_stats_t stats = WG_STATS_INIT;
  snprintf(endpoint, sizeof endpoint, "localhost:%d", listen_port(b.handle));
  of_b.endpoint = endpoint;
  of_b.allowed_ips = &ip_b;
  of_a.allowed_ips = &ip_a;
  of_b.allowed_ip_count = of_a.allowed_ip_count = 1;
  of_a.flags = of_b.flags = WG_PEER_HAS_PRESHARED_KEY;
  key_bytes(PSK, of_a.preshared_key);
  key_bytes(PSK, of_b.preshared_key);
  CHECK_EQ(wg_set_peer(b.handle, &of_a), WG_OK);
  CHECK_EQ(wg_set_peer(a.handle, &of_b), WG_OK);
  CHECK_FAILS(wg_set_peer(a.handle, &third), WG_ERR_INVALID, "more than 1 peers");
  check_exchange(a, b);

  /* The session outlives a change, and not the peer. */
  of_b.endpoint = NULL;
  CHECK_EQ(wg_set_peer(a.handle, &of_b), WG_OK);
  check_exchange(a, b);
  CHECK_EQ(counter(a, "handshake_refused") + counter(b, "handshake_refused"), 0);
  CHECK_EQ(wg_remove_peer(a.handle, of_b.public_key), WG_OK);
  CHECK_EQ(wg_stats(a.handle, &stats), WG_OK);
  CHECK_EQ(stats.peers, 0);
  CHECK_FAILS(wg_remove_peer(a.handle, of_b.public_key), WG_ERR_NOT_FOUND, "no peer");
  CHECK_EQ(wg_set_peer(a.handle, &third), WG_OK);
  turn_off(a);
  turn_off(b);
}

/* What has been sent may arrive, and be counted, a moment later. */
static void wait_for_handshake(struct end end, const uint8_t *key, int64_t after_sec, uint32_t after_nsec) {
  wg_peer_stats_t peer = WG_PEER_STATS_INIT;
  int tries;
  for (tries = 0; tries < TRIES; tries++) {
    CHECK_EQ(wg_peer_stats(end.handle, key, &peer), WG_OK);
    if (peer.last_handshake_sec > after_sec ||
        (peer.last_handshake_sec == after_sec && peer.last_handshake_nsec > after_nsec))
      return;
    sleep_ms(1);
  }
  CHECK(!"there is a handshake");
}

static void note_event(void *user, int32_t handle, const wg_event_t *event) {
  (void)handle;
  if (event->kind == WG_EVENT_SESSION_EXPIRED) __sync_fetch_and_add((int *)user, 1);
}

static void sessions_are_made_and_dropped_on_demand(void) {
  uint8_t key_a[WG_KEY_LEN], key_b[WG_KEY_LEN];
  wg_peer_stats_t peer = WG_PEER_STATS_INIT;
  struct end a, b;
  int expired = 0, tries;
  key_bytes(PUBLIC_A, key_a);
  key_bytes(PUBLIC_B, key_b);
  turn_on_both(SOCK_DGRAM, &a, &b);
  CHECK_EQ(wg_set_event_callback(a.handle, note_event, &expired, NULL), WG_OK);

  /* Without a packet. */
  CHECK_EQ(wg_force_handshake(a.handle, key_b), WG_OK);
  wait_for_handshake(a, key_b, 0, 0);
  CHECK_EQ(wg_peer_stats(a.handle, key_b, &peer), WG_OK);
  CHECK_EQ(peer.has_session, 1);
  CHECK_EQ(get_int(&expired), 0);
  /* Both ends use the session then. */
  check_exchange(a, b);

  CHECK_EQ(wg_drop_session(a.handle, key_b), WG_OK);
  CHECK_EQ(wg_peer_stats(a.handle, key_b, &peer), WG_OK);
  CHECK_EQ(peer.has_session, 0);
  /* Not always by this thread: one that is reporting events reports this one as well. */
  for (tries = 0; tries < TRIES && get_int(&expired) == 0; tries++) sleep_ms(1);
  CHECK_EQ(get_int(&expired), 1);
  CHECK_EQ(wg_drop_session(a.handle, NULL), WG_OK);
  /* The 5 seconds do not count any more. */
  CHECK_EQ(wg_force_handshake(a.handle, NULL), WG_OK);
  wait_for_handshake(a, key_b, peer.last_handshake_sec, peer.last_handshake_nsec);
  check_exchange(a, b);

  CHECK_FAILS(wg_force_handshake(a.handle, key_a), WG_ERR_NOT_FOUND, "no peer ehp");
  CHECK_FAILS(wg_drop_session(a.handle, key_a), WG_ERR_NOT_FOUND, "no peer ehp");
  CHECK_FAILS(wg_force_handshake(-1, NULL), WG_ERR_UNKNOWN_HANDLE, "handle");
  CHECK_FAILS(wg_drop_session(-1, NULL), WG_ERR_UNKNOWN_HANDLE, "handle");
  CHECK_EQ(wg_set_config(a.handle, "public_key=" PSK "\n"), WG_OK);
  key_bytes(PSK, key_a);
  CHECK_FAILS(wg_force_handshake(a.handle, key_a), WG_ERR_NOT_FOUND, "has no endpoint");
  CHECK_EQ(wg_set_config(a.handle, "private_key=" NO_KEY "\n"), WG_OK);
  CHECK_FAILS(wg_force_handshake(a.handle, NULL), WG_ERR_NOT_FOUND, "no private key");
  CHECK_EQ(wg_set_event_callback(a.handle, NULL, NULL, NULL), WG_OK);
  turn_off(a);
  turn_off(b);
}

int main(void) {
  sessions_are_made_and_dropped_on_demand();
  a_struct_is_as_good_as_its_lines();
  what_is_wrong_changes_nothing();
  packets_pass();
  return 0;
}
