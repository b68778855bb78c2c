/* Calls back into the library from inside its callbacks: what takes a handle is refused, the rest works, nothing hangs. */
#include "check.h"

struct state {
  int32_t own, other, bind;
  int calls, destroyed, given_up;
};

static void counts(void *user) { __sync_fetch_and_add((int *)user, 1); }

static void takes_lines(void *user, int32_t handle, int32_t level, const char *text) {
  (void)user, (void)handle, (void)level, (void)text;
}

static void takes_events(void *user, int32_t handle, const wg_event_t *event) {
  (void)user, (void)handle, (void)event;
}

#define BUSY(call) CHECK_FAILS(call, WG_ERR_BUSY, "inside a callback")
/* Not refused because of the callback, but because the tunnel has no such thing, or has ended, or is none. */
#define PASSES(call) \
  do { \
    const wg_result passes = call; \
    CHECK(passes == WG_ERR_UNSUPPORTED || passes == WG_ERR_CLOSED || passes == WG_ERR_UNKNOWN_HANDLE); \
  } while (0)

/* Every function of the header that takes the handle of a tunnel. (tests/c_abi.rs sees to it that none is missing.) */
static void what_takes_a_handle_is_answered(struct state *state, int32_t handle) {
  char *text = NULL;
  size_t count = 77;
  wg_stats_t stats;
  wg_peer_stats_t peer;
  wg_memory_usage_t usage;
  wg_counter_t counter;
  uint8_t key[WG_KEY_LEN] = {0};
  stats.struct_size = sizeof stats;
  peer.struct_size = sizeof peer;
  usage.struct_size = sizeof usage;
  usage.total = 77;
  BUSY(wg_turn_off(handle));
  BUSY(wg_turn_off_within(handle, 0));
  BUSY(wg_set_config(handle, ""));
  BUSY(wg_get_config(handle, &text));
  BUSY(wg_set_event_callback(handle, takes_events, &state->given_up, counts));
  BUSY(wg_set_event_callback(handle, NULL, NULL, NULL));
  BUSY(wg_set_tunnel_log_callback(handle, takes_lines, &state->given_up, counts));
  BUSY(wg_set_tunnel_log_callback(handle, NULL, NULL, NULL));
  BUSY(wg_stats(handle, &stats));
  BUSY(wg_counters(handle, &counter, 1, &count));
  BUSY(wg_peer_stats(handle, key, &peer));
  BUSY(wg_peers(handle, &peer, 1, &count));
  BUSY(wg_memory_usage(handle, &usage));
  BUSY(wg_trim(handle));
  BUSY(wg_peek_socket_fd4(handle));
  BUSY(wg_peek_socket_fd6(handle));
  BUSY(wg_bind_socket_to_interface4(handle, 0, 0));
  BUSY(wg_bind_socket_to_interface6(handle, 0, 0));
  BUSY(wg_bump_sockets(handle));
  BUSY(wg_network_changed(handle));
  BUSY(wg_disable_roaming(handle));
  BUSY(wg_set_fwmark(handle, 0));
  BUSY(wg_pause(handle));
  BUSY(wg_resume(handle));
  PASSES(wg_tun_inject(handle, NULL, 0, NULL));
  PASSES(wg_transport_receive(handle, NULL, 0, NULL));
  PASSES(wg_set_mtu(handle, 1280));
  CHECK(text == NULL && count == 77 && usage.total == 77);
}

/* And every one that takes that of a bind. */
static void what_takes_a_bind_is_refused(int32_t bind) {
  uint16_t port = 0;
  wg_datagram_t datagram;
  wg_send_report_t report;
  memset(&datagram, 0, sizeof datagram);
  BUSY(wg_bind_reopen(bind, &port));
  BUSY(wg_bind_close(bind));
  BUSY(wg_bind_batch_size(bind));
  BUSY(wg_bind_set_mark(bind, 0));
  BUSY(wg_bind_set_interface(bind, WG_IPV4, 0, 0));
  BUSY(wg_bind_peek_fd(bind, WG_IPV4));
  BUSY(wg_bind_send(bind, &datagram, 1, &report));
  BUSY(wg_bind_recv(bind, WG_IPV4, &datagram, 1, 0));
}

static void what_waits_is_refused(struct state *state) {
  wg_options_t options = WG_OPTIONS_INIT;
  int pair[2];
  make_pair(SOCK_DGRAM, pair);
  options.tun_fd = pair[0];
  BUSY(wg_turn_on(pair[0], ""));
  BUSY(wg_turn_on_with(&options, ""));
  BUSY(wg_bind_open(NULL, NULL));
  BUSY(wg_bind_adopt(pair[0], WG_FD_TAKE, NULL, NULL));
  BUSY(wg_set_log_callback(takes_lines, &state->given_up, counts));
  BUSY(wg_set_log_callback(NULL, NULL, NULL));
  CHECK(is_open(pair[0]));
  close(pair[0]);
  close(pair[1]);
}

static void the_rest_works(void) {
  uint8_t key[WG_KEY_LEN], public_key[WG_KEY_LEN];
  char text[WG_KEY_HEX_LEN], address[WG_ENDPOINT_TEXT_LEN];
  wg_endpoint_t endpoint;
  wg_address_t found;
  size_t count = 0;
  CHECK_EQ(wg_set_log_level(WG_LOG_DEBUG), WG_OK);
  CHECK_EQ(wg_set_log_level(99), WG_ERR_INVALID);
  CHECK_EQ(wg_version_number(), WG_VERSION_NUMBER);
  CHECK(wg_version_string()[0] != '\0');
  wg_free(NULL);
  CHECK_EQ(wg_generate_private_key(key), WG_OK);
  CHECK_EQ(wg_generate_preshared_key(key), WG_OK);
  CHECK_EQ(wg_generate_public_key(key, public_key), WG_OK);
  CHECK_EQ(wg_key_to_hex(key, text), WG_OK);
  CHECK_EQ(wg_key_from_hex(text, key), WG_OK);
  CHECK_EQ(wg_key_to_base64(key, text), WG_OK);
  CHECK_EQ(wg_key_from_base64(text, key), WG_OK);
  CHECK_EQ(wg_endpoint_parse("192.0.2.1:1", &endpoint), WG_OK);
  CHECK_EQ(wg_endpoint_format(&endpoint, address), WG_OK);
  CHECK_EQ(wg_endpoint_clear_source(&endpoint), WG_OK);
  CHECK_EQ(wg_resolve_system(NULL, "192.0.2.1", &found, 1, &count), WG_OK);
  CHECK_EQ(count, 1);
}

static void calls_back(struct state *state) {
  what_takes_a_handle_is_answered(state, state->own);
  what_takes_a_handle_is_answered(state, state->other);
  what_takes_a_handle_is_answered(state, -1);
  what_takes_a_bind_is_refused(state->bind);
  what_takes_a_bind_is_refused(-1);
  what_waits_is_refused(state);
  the_rest_works();
  __sync_fetch_and_add(&state->calls, 1);
}

static void calls_back_from_a_line(void *user, int32_t handle, int32_t level, const char *text) {
  (void)handle, (void)level, (void)text;
  calls_back(user);
}

static void calls_back_from_an_event(void *user, int32_t handle, const wg_event_t *event) {
  (void)event;
  CHECK_EQ(handle, ((struct state *)user)->own);
  calls_back(user);
}

static void calls_back_while_given_up(void *user) {
  calls_back(user);
  ((struct state *)user)->destroyed++;
}

/* 2 callbacks are given up by each of 3 calls for a handle, and one by what needs none. */
static void check_given_up(struct state *state) { CHECK_EQ(state->given_up, 7 * state->calls); }

static void from_events(struct end other, int32_t bind) {
  struct state state;
  struct end a, b;
  int tries;
  memset(&state, 0, sizeof state);
  turn_on_both(SOCK_DGRAM, &a, &b);
  state.own = a.handle;
  state.other = other.handle;
  state.bind = bind;
  CHECK_EQ(wg_set_event_callback(a.handle, calls_back_from_an_event, &state, calls_back_while_given_up), WG_OK);
  check_passes(a.app, b.app, 1, 2, 1);
  for (tries = 0; tries < TRIES && __sync_fetch_and_add(&state.calls, 0) == 0; tries++) sleep_ms(5);
  CHECK_EQ(wg_set_event_callback(a.handle, NULL, NULL, NULL), WG_OK);
  CHECK_EQ(state.destroyed, 1);
  CHECK_EQ(state.calls, 2);
  check_given_up(&state);
  check_exchange(a, b);
  turn_off(a);
  turn_off(b);
}

/* On this thread and on the tunnels' own. */
static void from_lines(struct end other, int32_t bind, int of_the_tunnel) {
  struct state state;
  struct end a, b;
  int before;
  memset(&state, 0, sizeof state);
  turn_on_both(SOCK_DGRAM, &a, &b);
  state.own = a.handle;
  state.other = other.handle;
  state.bind = bind;
  CHECK_EQ(wg_set_log_level(WG_LOG_DEBUG), WG_OK);
  CHECK_EQ(of_the_tunnel
               ? wg_set_tunnel_log_callback(a.handle, calls_back_from_a_line, &state, calls_back_while_given_up)
               : wg_set_log_callback(calls_back_from_a_line, &state, calls_back_while_given_up),
           WG_OK);
  check_passes(a.app, b.app, 1, 2, 1);
  before = __sync_fetch_and_add(&state.calls, 0);
  CHECK(before > 0);
  turn_off(a);
  CHECK_EQ(state.destroyed, of_the_tunnel);
  CHECK(state.calls > before);
  turn_off(b);
  CHECK_EQ(wg_set_log_callback(NULL, NULL, NULL), WG_OK);
  CHECK_EQ(state.destroyed, 1);
  check_given_up(&state);
}

int main(void) {
  struct end other = turn_on(SOCK_DGRAM, "");
  int32_t bind = wg_bind_open(NULL, NULL);
  alarm(120); /* Whatever hangs, fails. */
  CHECK(bind > 0);
  from_events(other, bind);
  from_lines(other, bind, 0);
  from_lines(other, bind, 1);
  CHECK_EQ(wg_bind_close(bind), WG_OK);
  turn_off(other);
  return 0;
}
