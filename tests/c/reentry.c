/* Calls of the library from inside its callbacks: those with a handle are refused, the rest works, nothing hangs. */
#include "check.h"

struct state {
  int32_t own, other, bind;
  int calls, destroyed, given_up;
};

#define BUSY(call) CHECK_FAILS(call, WG_ERR_BUSY, "inside a callback")
/* Not refused because of the callback, but because the tunnel has no such thing, or has ended, or is none. */
#define PASSES(call) \
  do { \
    const wg_result_t passes = call; \
    CHECK(passes == WG_ERR_UNSUPPORTED || passes == WG_ERR_CLOSED || passes == WG_ERR_UNKNOWN_HANDLE); \
  } while (0)

#define REFUSED(call) BUSY(call)
#define INSIDE(call) PASSES(call)
#include "calls.h"

static void what_waits_is_refused(struct state *state) {
  wg_options_t options = WG_OPTIONS_INIT;
  int pair[2];
  make_pair(SOCK_DGRAM, pair);
  options.tun_fd = pair[0];
  BUSY(wg_turn_on(pair[0], ""));
  BUSY(wg_turn_on_with(&options, ""));
  BUSY(wg_udp_open(NULL, NULL));
  BUSY(wg_udp_adopt(pair[0], WG_FD_TAKE, NULL, NULL));
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
  struct sockaddr_storage sockaddr;
  size_t count = 0, len = sizeof sockaddr;
  CHECK_EQ(wg_set_log_level(WG_LOG_DEBUG), WG_OK);
  CHECK_EQ(wg_set_log_level(99), WG_ERR_INVALID);
  CHECK(wg_result_text(WG_ERR_BUSY)[0] != 0);
  CHECK_EQ(wg_version_number(), WG_VERSION_NUMBER);
  CHECK(wg_version_string()[0] != '\0');
  wg_free(NULL);
  CHECK_EQ(wg_keys_generate_private(key), WG_OK);
  CHECK_EQ(wg_keys_generate_preshared(key), WG_OK);
  CHECK_EQ(wg_keys_derive_public(key, public_key), WG_OK);
  CHECK_EQ(wg_keys_to_hex(key, text), WG_OK);
  CHECK_EQ(wg_keys_from_hex(text, key), WG_OK);
  CHECK_EQ(wg_keys_to_base64(key, text), WG_OK);
  CHECK_EQ(wg_keys_from_base64(text, key), WG_OK);
  CHECK_EQ(wg_endpoint_parse("192.0.2.1:1", &endpoint), WG_OK);
  CHECK_EQ(wg_endpoint_format(&endpoint, address), WG_OK);
  CHECK_EQ(wg_endpoint_to_sockaddr(&endpoint, &sockaddr, &len), WG_OK);
  CHECK_EQ(wg_endpoint_from_sockaddr(&sockaddr, len, &endpoint), WG_OK);
  CHECK_EQ(wg_endpoint_clear_source(&endpoint), WG_OK);
  CHECK_EQ(wg_resolve_system(NULL, "192.0.2.1", &found, 1, &count), WG_OK);
  CHECK_EQ(count, 1);
}

static void calls_back(struct state *state) {
  call_with_handle(state->own, &state->given_up);
  call_with_handle(state->other, &state->given_up);
  call_with_handle(-1, &state->given_up);
  call_with_bind(state->bind);
#ifdef WG_EMBED_CONTROL
  call_with_manager(state->bind);
#endif
  call_with_bind(-1);
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
  int32_t bind = wg_udp_open(NULL, NULL);
  alarm(120); /* Whatever hangs, fails. */
  CHECK(bind > 0);
  from_events(other, bind);
  from_lines(other, bind, 0);
  from_lines(other, bind, 1);
  CHECK_EQ(wg_udp_close(bind), WG_OK);
  turn_off(other);
  return 0;
}
