/*
 * Every function of the header, thousands of times, with what no program should pass, on several threads, while others turn
 * tunnels and binds on and off under them: nothing crashes, hangs or is left behind, and each call ends as its text says.
 *
 *     fuzz [SEED [SECONDS]]
 *
 * tests/c_abi.rs sees to it that no function is missing.
 */
#include "fuzz.h"

enum { CALLERS = 4, TURNERS = 2, ENOUGH = 5000, AT_LEAST = 1000, SLOTS = CALLERS + 2 * TURNERS, GONE = 64 };

/* Handles that may be valid at this moment, by kind, and some that are not any more. */
static _Atomic int32_t tunnels[SLOTS], binds[SLOTS], gone[GONE];
static atomic_int done;

/* A thread that makes calls. */
struct caller {
  struct dice dice;
  int slot, number;
  struct function *function; /* which is called */
  char text[4096];
};

struct function {
  const char *name;
  void (*call)(struct caller *);
  uint64_t errors; /* with which it may fail, as the header says */
  atomic_ulong calls, failures;
};

/* How a call ended. */

static void judge(struct caller *c, long long result, int well) {
  struct function *function = c->function;
  atomic_fetch_add(&function->calls, 1);
  if (well) return;
  atomic_fetch_add(&function->failures, 1);
  if (result < 0 && result > -64 && (function->errors >> -result & 1) != 0) {
    CHECK(wg_last_error()[0] != '\0');
    CHECK(strstr(wg_last_error(), PRIVATE_A) == NULL && strstr(wg_last_error(), PRIVATE_B) == NULL);
    return;
  }
  fprintf(stderr, "%s returned %lld, which is not documented: %s\n", function->name, result, wg_last_error());
  exit(1);
}

static int status(struct caller *c, long long result) {
  judge(c, result, result == WG_OK);
  return result == WG_OK;
}

static int number(struct caller *c, long long result) {
  judge(c, result, result >= 0);
  return result >= 0;
}

/* For those that cannot fail. */
static void fine(struct caller *c, int condition) {
  CHECK(condition);
  judge(c, 0, 1);
}

/* Handles. */

static int32_t any_handle(struct caller *c, _Atomic int32_t *right, _Atomic int32_t *wrong) {
  static const int32_t never[] = {0, -1, INT32_MIN, INT32_MAX, WG_ERR_UNKNOWN_HANDLE, WG_ERR_BUSY};
  switch (below(&c->dice, 8)) {
  case 0: return never[below(&c->dice, COUNT_OF(never))];
  case 1: return (int32_t)roll(&c->dice);
  case 2: return atomic_load(&gone[below(&c->dice, GONE)]);
  case 3: return atomic_load(&wrong[below(&c->dice, SLOTS)]);
  default: return atomic_load(&right[below(&c->dice, SLOTS)]);
  }
}

static int32_t tunnel(struct caller *c) { return any_handle(c, tunnels, binds); }
static int32_t a_bind(struct caller *c) { return any_handle(c, binds, tunnels); }

static void forget(int32_t handle) {
  static atomic_uint next;
  atomic_store(&gone[atomic_fetch_add(&next, 1) % GONE], handle);
}

static void end_tunnel(int32_t handle) {
  int32_t result;
  if (handle <= 0) return;
  result = wg_turn_off(handle);
  CHECK(result == WG_OK || result == WG_ERR_UNKNOWN_HANDLE); /* another thread may have been first */
  CHECK_EQ(wg_turn_off(handle), WG_ERR_UNKNOWN_HANDLE);
  forget(handle);
}

static void end_bind(int32_t handle) {
  int32_t result;
  if (handle <= 0) return;
  result = wg_bind_close(handle);
  CHECK(result == WG_OK || result == WG_ERR_UNKNOWN_HANDLE);
  CHECK_EQ(wg_bind_close(handle), WG_ERR_UNKNOWN_HANDLE);
  forget(handle);
}

/* Callbacks. They answer this and that, and try what they must not. */

static unsigned any_answer(void) {
  static atomic_uint asked;
  return atomic_fetch_add(&asked, 1) % 16;
}

static int32_t protects(void *user, int32_t fd, uint32_t family) {
  still_there(user);
  CHECK(is_open(fd) && (family == WG_IPV4 || family == WG_IPV6));
  return any_answer() == 0;
}

static int32_t resolves(void *user, const char *host, wg_address_t *addresses, size_t capacity, size_t *count) {
  unsigned answer = any_answer();
  still_there(user);
  CHECK(strlen(host) > 0 && capacity == 16);
  CHECK_EQ(wg_trim(1), WG_ERR_BUSY);
  addresses[0].family = answer % 3 == 0 ? WG_IPV6 : WG_IPV4;
  if (answer % 3 == 0) addresses[0].bytes[15] = 1;
  else addresses[0].bytes[0] = 127, addresses[0].bytes[3] = 1;
  *count = answer == 1 ? 0 : answer == 2 ? SIZE_MAX : answer == 3 ? 2 : 1;
  return answer == 4 ? 77 : answer == 5 ? -12345 : answer == 6 ? WG_ERR_NOT_FOUND : WG_OK;
}

static void takes_lines(void *user, int32_t handle, int32_t level, const char *text) {
  still_there(user);
  CHECK(handle >= 0 && level >= WG_LOG_ERROR && level <= WG_LOG_TRACE);
  CHECK(strstr(text, PRIVATE_A) == NULL && strstr(text, PRIVATE_B) == NULL && strstr(text, PSK) == NULL);
  if (any_answer() == 0) CHECK_EQ(wg_turn_off(handle), WG_ERR_BUSY);
}

static void takes_events(void *user, int32_t handle, const wg_event_t *event) {
  still_there(user);
  CHECK(handle > 0 && event->struct_size == sizeof *event && event->kind > 0);
  CHECK_EQ(wg_turn_off(handle), WG_ERR_BUSY);
}

/* Tunnels. */

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

static void fuzz_wg_turn_on_with(struct caller *c) {
  static const uint32_t mtus[] = {0, 0, 0, 576, 1420, 65535, 1, 65536, UINT32_MAX};
  static const uint32_t most[] = {0, 0, 1, 16777216, 16777217, UINT32_MAX};
  static const size_t limits[] = {0, 0, WG_MEMORY_MIN, WG_MEMORY_MAX, 1, SIZE_MAX};
  /* As callers had it that were compiled before some of the fields were there. */
  static const size_t older[] = {sizeof(size_t) + 8, offsetof(wg_options_t, protect), offsetof(wg_options_t, resolve)};
  wg_options_t right = WG_OPTIONS_INIT;
  struct descriptor made = any_descriptor(&c->dice, c->number);
  struct token *token = NULL, *resolver = NULL;
  const char *text = any_config(&c->dice, c->text, sizeof c->text);
  size_t size = any_size(&c->dice, sizeof right), real;
  unsigned char *options;
  int readable, tail = 0;
  int32_t handle;
  if (one_in(&c->dice, 8)) size = older[below(&c->dice, COUNT_OF(older))];
  if (size < sizeof right) { /* no half of a pointer */
    size_t i;
    for (i = 0; i < COUNT_OF(older) && size != older[i]; i++) continue;
    if (i == COUNT_OF(older) && size > offsetof(wg_options_t, protect)) size = offsetof(wg_options_t, protect);
  }
  right.struct_size = size;
  right.tun_fd = made.fd;
  right.fd_ownership = one_in(&c->dice, 8) ? (uint32_t)below(&c->dice, 5) : below(&c->dice, 2) ? WG_FD_TAKE : WG_FD_DUP;
  right.mtu = mtus[below(&c->dice, COUNT_OF(mtus))];
  right.max_peers = most[below(&c->dice, COUNT_OF(most))];
  right.memory_limit = limits[below(&c->dice, COUNT_OF(limits))];
  if (one_in(&c->dice, 2)) right.protect = protects;
  if (one_in(&c->dice, 2)) right.resolve = one_in(&c->dice, 2) ? resolves : wg_resolve_system;
  right.protect_user = token = new_token();
  right.protect_destroy = destroy_token;
  right.resolve_user = resolver = new_token();
  right.resolve_destroy = destroy_token;
  real = real_size(size, sizeof right);
  options = calloc(1, real);
  CHECK(options != NULL);
  memcpy(options, &right, real < sizeof right ? real : sizeof right);
  if (real > sizeof right && one_in(&c->dice, 2)) tail = options[sizeof right + below(&c->dice, real - sizeof right)] = 1;
  readable = size >= sizeof(size_t) && size <= 4096 && !tail;
  if (one_in(&c->dice, 40)) {
    handle = wg_turn_on_with(NULL, text);
    readable = 0;
  } else {
    handle = wg_turn_on_with((const wg_options_t *)(void *)options, text);
  }
  free(options);
  number(c, handle);
  CHECK(readable || handle < 0);
  if (size >= offsetof(wg_options_t, resolve)) {
    settle(token, handle < 0, readable);
  } else {
    let_go(token);
    let_go(token);
  }
  if (size >= sizeof right) {
    settle(resolver, handle < 0, readable);
  } else {
    let_go(resolver);
    let_go(resolver);
  }
  close_descriptor(made, c->number, handle > 0 && right.fd_ownership == WG_FD_TAKE);
  if (handle > 0) keep_tunnel(c, handle);
}

static void fuzz_wg_turn_off(struct caller *c) { status(c, wg_turn_off(tunnel(c))); }
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

static void fuzz_wg_get_config(struct caller *c) {
  char *const untouched = c->text, *text = untouched;
  if (status(c, wg_get_config(tunnel(c), one_in(&c->dice, 8) ? NULL : &text))) {
    CHECK(text != untouched && strstr(text, "errno=") == NULL);
    wg_free(text);
  } else {
    CHECK(text == untouched);
  }
}

static void fuzz_wg_free(struct caller *c) {
  char *text = NULL;
  if (wg_get_config(tunnel(c), &text) != WG_OK) CHECK(text == NULL);
  wg_free(text);
  fine(c, 1);
}

/* What is watched. */

/* Calls READ, which writes to `out`, a struct of TYPE with some struct_size. */
#define FUZZ_SIZED(type, read)                                                     \
  do {                                                                             \
    size_t size = any_size(&c->dice, sizeof(type)), real = real_size(size, sizeof(type)); \
    void *room = new_room(real);                                                   \
    type *out = one_in(&c->dice, 20) ? NULL : room;                                \
    memcpy(room, &size, sizeof size);                                              \
    if (status(c, read)) {                                                         \
      CHECK(out != NULL && memcmp(room, &size, sizeof size) == 0);                 \
      free_room(room, size, real);                                                 \
    } else {                                                                       \
      CHECK(memcmp(room, &size, sizeof size) == 0);                                \
      memset(room, FILL, sizeof size);                                             \
      free_room(room, 0, real);                                                    \
    }                                                                              \
  } while (0)

static void fuzz_wg_stats(struct caller *c) { FUZZ_SIZED(wg_stats_t, wg_stats(tunnel(c), out)); }

static void fuzz_wg_memory_usage(struct caller *c) { FUZZ_SIZED(wg_memory_usage_t, wg_memory_usage(tunnel(c), out)); }

static void fuzz_wg_peer_stats(struct caller *c) {
  uint8_t key[WG_KEY_LEN];
  key_bytes(one_in(&c->dice, 2) ? PUBLIC_A : PUBLIC_B, key);
  FUZZ_SIZED(wg_peer_stats_t, wg_peer_stats(tunnel(c), one_in(&c->dice, 20) ? NULL : key, out));
}

static void fuzz_wg_peers(struct caller *c) {
  size_t size = any_size(&c->dice, sizeof(wg_peer_stats_t)), real = real_size(size, sizeof(wg_peer_stats_t));
  size_t capacity = below(&c->dice, 4), count = 77, bytes = real * (capacity ? capacity : 1);
  unsigned char *room = new_room(bytes);
  memcpy(room, &size, sizeof size);
  if (status(c, wg_peers(tunnel(c), one_in(&c->dice, 20) ? NULL : (wg_peer_stats_t *)(void *)room, capacity,
                         one_in(&c->dice, 20) ? NULL : &count))) {
    size_t written = count < capacity ? count : capacity;
    if (written == 0) memset(room, FILL, sizeof size);
    free_room(room, size > 65536 ? bytes : written * size, bytes);
  } else {
    CHECK_EQ(count, 77);
    memset(room, FILL, sizeof size);
    free_room(room, 0, bytes);
  }
}

static void fuzz_wg_counters(struct caller *c) {
  size_t capacity = below(&c->dice, 80), count = 77, bytes = capacity * sizeof(wg_counter_t);
  wg_counter_t *room = new_room(bytes);
  if (status(c, wg_counters(tunnel(c), one_in(&c->dice, 20) ? NULL : room, capacity,
                            one_in(&c->dice, 20) ? NULL : &count))) {
    size_t written = count < capacity ? count : capacity, i;
    for (i = 0; i < written; i++) CHECK(memchr(room[i].name, 0, sizeof room[i].name) != NULL);
    free_room(room, written * sizeof(wg_counter_t), bytes);
  } else {
    CHECK_EQ(count, 77);
    free_room(room, 0, bytes);
  }
}

static void fuzz_wg_set_event_callback(struct caller *c) {
  struct token *token = new_token();
  wg_event_fn_t event = one_in(&c->dice, 4) ? NULL : takes_events;
  int set = status(c, wg_set_event_callback(tunnel(c), event, token, destroy_token));
  settle(token, !set || event == NULL, 1);
}

static void fuzz_wg_set_tunnel_log_callback(struct caller *c) {
  struct token *token = new_token();
  wg_log_fn_t log = one_in(&c->dice, 4) ? NULL : takes_lines;
  int set = status(c, wg_set_tunnel_log_callback(tunnel(c), log, token, destroy_token));
  settle(token, !set || log == NULL, 1);
}

static void fuzz_wg_set_log_callback(struct caller *c) {
  struct token *token = new_token();
  wg_log_fn_t log = one_in(&c->dice, 4) ? NULL : takes_lines;
  status(c, wg_set_log_callback(log, token, destroy_token));
  settle(token, log == NULL, 1);
}

static void fuzz_wg_set_log_level(struct caller *c) {
  static const int32_t levels[] = {0, 1, 2, 3, 3, 3, 4, 5, 6, -1, INT32_MAX, INT32_MIN};
  status(c, wg_set_log_level(levels[below(&c->dice, COUNT_OF(levels))]));
}

static void fuzz_wg_last_error(struct caller *c) { fine(c, strlen(wg_last_error()) < 4096); }
static void fuzz_wg_version_string(struct caller *c) { fine(c, strcmp(wg_version_string(), "") != 0); }
static void fuzz_wg_version_number(struct caller *c) { fine(c, wg_version_number() == WG_VERSION_NUMBER); }

/* Host names that nobody has to be asked about: what is not a number or localhost is not UTF-8 either. */
static void fuzz_wg_resolve_system(struct caller *c) {
  static const char *const hosts[] = {"127.0.0.1", "::1", "localhost", "\xff", "a\xc0", "", "256.0.0.1\xff"};
  size_t capacity = below(&c->dice, 5), count = 77;
  wg_address_t *room = new_room(capacity * sizeof *room);
  const char *host = one_in(&c->dice, 20) ? NULL : hosts[below(&c->dice, COUNT_OF(hosts))];
  int found = status(c, wg_resolve_system(NULL, host, one_in(&c->dice, 20) ? NULL : room, capacity,
                                          one_in(&c->dice, 20) ? NULL : &count));
  if (found) CHECK(count <= capacity);
  free_room(room, capacity * sizeof *room, capacity * sizeof *room);
}

/* Keys. */

static void fuzz_made_key(struct caller *c, wg_result (*make)(uint8_t *)) {
  uint8_t *key = new_room(WG_KEY_LEN);
  free_room(key, status(c, make(one_in(&c->dice, 8) ? NULL : key)) ? WG_KEY_LEN : 0, WG_KEY_LEN);
}

static void fuzz_wg_generate_private_key(struct caller *c) { fuzz_made_key(c, wg_generate_private_key); }
static void fuzz_wg_generate_preshared_key(struct caller *c) { fuzz_made_key(c, wg_generate_preshared_key); }

static void any_key(struct caller *c, uint8_t key[WG_KEY_LEN]) {
  size_t i, all = below(&c->dice, 4);
  for (i = 0; i < WG_KEY_LEN; i++) key[i] = (uint8_t)(all == 0 ? 0 : all == 1 ? 0xff : roll(&c->dice));
}

static void fuzz_wg_generate_public_key(struct caller *c) {
  uint8_t key[WG_KEY_LEN], *out = new_room(WG_KEY_LEN);
  any_key(c, key);
  free_room(out, status(c, wg_generate_public_key(one_in(&c->dice, 8) ? NULL : key, one_in(&c->dice, 8) ? NULL : out))
                     ? WG_KEY_LEN
                     : 0,
            WG_KEY_LEN);
}

static void fuzz_key_to(struct caller *c, wg_result (*write)(const uint8_t *, char *), size_t len) {
  uint8_t key[WG_KEY_LEN];
  char *text = new_room(len);
  int written;
  any_key(c, key);
  written = status(c, write(one_in(&c->dice, 8) ? NULL : key, one_in(&c->dice, 8) ? NULL : text));
  if (written) CHECK_EQ(strlen(text), len - 1);
  free_room(text, written ? len : 0, len);
}

static void fuzz_wg_key_to_hex(struct caller *c) { fuzz_key_to(c, wg_key_to_hex, WG_KEY_HEX_LEN); }
static void fuzz_wg_key_to_base64(struct caller *c) { fuzz_key_to(c, wg_key_to_base64, WG_KEY_BASE64_LEN); }

static void fuzz_key_from(struct caller *c, wg_result (*read)(const char *, uint8_t *), const char *right) {
  uint8_t *key = new_room(WG_KEY_LEN);
  const char *text = any_text(&c->dice, &right, 1, c->text, 128);
  free_room(key, status(c, read(text, one_in(&c->dice, 8) ? NULL : key)) ? WG_KEY_LEN : 0, WG_KEY_LEN);
}

static void fuzz_wg_key_from_hex(struct caller *c) { fuzz_key_from(c, wg_key_from_hex, PRIVATE_A); }

static void fuzz_wg_key_from_base64(struct caller *c) {
  fuzz_key_from(c, wg_key_from_base64, "QEFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=");
}

/* Endpoints. */

static void fuzz_wg_endpoint_parse(struct caller *c) {
  static const char *const right[] = {"192.0.2.1:51820", "[2001:db8::1]:51820", "[fe80::1%1]:51820", "[fe80::1%lo]:1",
                                      "[fe80::1%nowhere]:1", "192.0.2.1", "host:1", "192.0.2.1:65536", "[::1]", ":", ""};
  wg_endpoint_t *endpoint = new_room(sizeof *endpoint);
  const char *text = any_text(&c->dice, right, COUNT_OF(right), c->text, 200);
  int parsed = status(c, wg_endpoint_parse(text, one_in(&c->dice, 8) ? NULL : endpoint));
  free_room(endpoint, parsed ? sizeof *endpoint : 0, sizeof *endpoint);
}

static void fuzz_endpoint_format(struct caller *c, wg_result (*format)(const wg_endpoint_t *, char *)) {
  wg_endpoint_t endpoint;
  char *text = new_room(WG_ENDPOINT_TEXT_LEN);
  unsigned char *bytes = (unsigned char *)&endpoint;
  size_t i;
  int written;
  for (i = 0; i < sizeof endpoint; i++) bytes[i] = (unsigned char)roll(&c->dice);
  if (!one_in(&c->dice, 4)) endpoint.family = below(&c->dice, 2) ? WG_IPV4 : WG_IPV6;
  written = status(c, format(one_in(&c->dice, 8) ? NULL : &endpoint, one_in(&c->dice, 8) ? NULL : text));
  if (written) CHECK(memchr(text, 0, WG_ENDPOINT_TEXT_LEN) != NULL);
  free_room(text, written ? WG_ENDPOINT_TEXT_LEN : 0, WG_ENDPOINT_TEXT_LEN);
}

static void fuzz_wg_endpoint_format(struct caller *c) { fuzz_endpoint_format(c, wg_endpoint_format); }
static void fuzz_wg_endpoint_format_source(struct caller *c) { fuzz_endpoint_format(c, wg_endpoint_format_source); }

static void fuzz_wg_endpoint_clear_source(struct caller *c) {
  wg_endpoint_t endpoint = any_endpoint(&c->dice);
  status(c, wg_endpoint_clear_source(one_in(&c->dice, 8) ? NULL : &endpoint));
}

/* Binds. */

static void keep_bind(struct caller *c, int32_t handle) { end_bind(atomic_exchange(&binds[c->slot], handle)); }

/* Makes a bind with some options: `adopt` a descriptor, or open a port. */
static int32_t make_bind(struct caller *c, const struct descriptor *adopt, uint32_t ownership) {
  wg_bind_options_t right = WG_BIND_OPTIONS_INIT;
  struct token *token = new_token();
  size_t size = any_size(&c->dice, sizeof right), real;
  uint16_t port = (uint16_t)(one_in(&c->dice, 16) ? below(&c->dice, 65536) : 0);
  uint16_t *chosen = one_in(&c->dice, 4) ? NULL : &port;
  unsigned char *options;
  int readable, tail = 0, none = one_in(&c->dice, 8);
  int32_t handle;
  if (size > offsetof(wg_bind_options_t, protect) && size < offsetof(wg_bind_options_t, mark)) size = sizeof right;
  right.struct_size = size;
  right.flags = (uint32_t)(one_in(&c->dice, 8) ? roll(&c->dice) : below(&c->dice, 4));
  right.mark = (uint32_t)below(&c->dice, 2);
  if (one_in(&c->dice, 2)) right.protect = protects;
  right.user = token;
  right.destroy = destroy_token;
  real = real_size(size, sizeof right);
  options = calloc(1, real);
  CHECK(options != NULL);
  memcpy(options, &right, real < sizeof right ? real : sizeof right);
  if (real > sizeof right && one_in(&c->dice, 2)) tail = options[sizeof right + below(&c->dice, real - sizeof right)] = 1;
  readable = !none && size >= offsetof(wg_bind_options_t, mark) && size <= 4096 && !tail;
  handle = adopt ? wg_bind_adopt(adopt->fd, ownership, none ? NULL : (const wg_bind_options_t *)(void *)options, chosen)
                 : wg_bind_open(none ? NULL : (const wg_bind_options_t *)(void *)options, chosen);
  free(options);
  number(c, handle);
  if (handle > 0 && chosen) CHECK(port != 0);
  if (handle > 0 && !readable) let_go(token); /* it was not given */
  settle(token, handle < 0, readable);
  if (handle > 0) keep_bind(c, handle);
  return handle;
}

static void fuzz_wg_bind_open(struct caller *c) { make_bind(c, NULL, 0); }

static void fuzz_wg_bind_adopt(struct caller *c) {
  struct descriptor made = any_descriptor(&c->dice, c->number);
  uint32_t ownership = one_in(&c->dice, 8) ? (uint32_t)roll(&c->dice) : below(&c->dice, 2) ? WG_FD_TAKE : WG_FD_DUP;
  int32_t handle = make_bind(c, &made, ownership);
  close_descriptor(made, c->number, handle > 0 && ownership == WG_FD_TAKE);
}

static uint32_t any_family(struct caller *c) {
  static const uint32_t families[] = {WG_IPV4, WG_IPV6, WG_IPV4, WG_IPV6, 0, 5, UINT32_MAX};
  return families[below(&c->dice, COUNT_OF(families))];
}

static void fuzz_wg_bind_reopen(struct caller *c) {
  uint16_t port = 0;
  status(c, wg_bind_reopen(a_bind(c), one_in(&c->dice, 3) ? NULL : &port));
}

static void fuzz_wg_bind_close(struct caller *c) { status(c, wg_bind_close(a_bind(c))); }
static void fuzz_wg_bind_batch_size(struct caller *c) { number(c, wg_bind_batch_size(a_bind(c))); }

static void fuzz_wg_bind_set_mark(struct caller *c) {
  status(c, wg_bind_set_mark(a_bind(c), (uint32_t)below(&c->dice, 3)));
}

static void fuzz_wg_bind_set_interface(struct caller *c) {
  status(c, wg_bind_set_interface(a_bind(c), any_family(c), any_interface(c), any_flag(c)));
}

static void fuzz_wg_bind_peek_fd(struct caller *c) { number(c, wg_bind_peek_fd(a_bind(c), any_family(c))); }

enum { DATAGRAMS = WG_BATCH_SIZE + 8, LONGEST = 70000 };

static void fuzz_wg_bind_send(struct caller *c) {
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
  for (i = 0; i < DATAGRAMS; i++) {
    datagrams[i].len = lens[below(&c->dice, one_in(&c->dice, 8) ? COUNT_OF(lens) : 4)];
    datagrams[i].data = one_in(&c->dice, 60) ? NULL : data;
    datagrams[i].peer = one_in(&c->dice, 60) ? NULL : &peers[below(&c->dice, COUNT_OF(peers))];
    datagrams[i].segment_size = segments[below(&c->dice, one_in(&c->dice, 8) ? COUNT_OF(segments) : 4)];
    datagrams[i].tos = (uint32_t)(one_in(&c->dice, 60) ? roll(&c->dice) : below(&c->dice, 256));
  }
  number(c, wg_bind_send(a_bind(c), null ? NULL : datagrams, count, one_in(&c->dice, 2) ? NULL : &report));
  free(datagrams);
}

static void fuzz_wg_bind_recv(struct caller *c) {
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
  number(c, wg_bind_recv(a_bind(c), any_family(c), one_in(&c->dice, 20) ? NULL : datagrams, count,
                         (int32_t)below(&c->dice, 3)));
  for (i = 0; i < 4; i++) free_room(datagrams[i].data, capacities[i], capacities[i]);
  free(datagrams);
}

/* The table. */

#define OF(code) (1ull << -(code))
#define HANDLE OF(WG_ERR_UNKNOWN_HANDLE)
#define RUNNING (HANDLE | OF(WG_ERR_CLOSED))
#define SYSTEM (OF(WG_ERR_PERMISSION) | OF(WG_ERR_ADDR_IN_USE) | OF(WG_ERR_IO) | OF(WG_ERR_RESOURCES))
#define TEXT (OF(WG_ERR_NULL) | OF(WG_ERR_INVALID) | OF(WG_ERR_PROTOCOL) | OF(WG_ERR_TOO_LARGE))
#define TURN_ON (TEXT | SYSTEM | OF(WG_ERR_UNSUPPORTED) | OF(WG_ERR_NOT_FOUND))
#define OPEN (SYSTEM | OF(WG_ERR_INVALID) | OF(WG_ERR_UNSUPPORTED))
#define SOCKETS (SYSTEM | OF(WG_ERR_NOT_FOUND)) /* it may be gone what they are tied to */
#define TIE (OF(WG_ERR_NOT_FOUND) | OF(WG_ERR_UNSUPPORTED) | OF(WG_ERR_PERMISSION) | OF(WG_ERR_IO))
#define READ (OF(WG_ERR_NULL) | OF(WG_ERR_INVALID))
#define NULLS OF(WG_ERR_NULL)
#define FUZZED(name, errors) {#name, fuzz_##name, errors, 0, 0}

static struct function functions[] = {
    FUZZED(wg_version_string, 0),
    FUZZED(wg_version_number, 0),
    FUZZED(wg_last_error, 0),
    FUZZED(wg_free, 0),
    FUZZED(wg_turn_on, TURN_ON),
    FUZZED(wg_turn_on_with, TURN_ON),
    FUZZED(wg_turn_off, HANDLE),
    FUZZED(wg_set_config, RUNNING | TEXT | SYSTEM),
    FUZZED(wg_get_config, HANDLE | NULLS | OF(WG_ERR_RESOURCES)),
    FUZZED(wg_pause, RUNNING),
    FUZZED(wg_resume, RUNNING | SOCKETS),
    FUZZED(wg_peek_socket_fd4, HANDLE | OF(WG_ERR_NOT_FOUND)),
    FUZZED(wg_peek_socket_fd6, HANDLE | OF(WG_ERR_NOT_FOUND)),
    FUZZED(wg_bind_socket_to_interface4, RUNNING | TIE),
    FUZZED(wg_bind_socket_to_interface6, RUNNING | TIE),
    FUZZED(wg_bump_sockets, RUNNING | SOCKETS),
    FUZZED(wg_network_changed, RUNNING | SOCKETS),
    FUZZED(wg_disable_roaming, HANDLE),
    FUZZED(wg_set_fwmark, RUNNING | OF(WG_ERR_PERMISSION)),
    FUZZED(wg_stats, HANDLE | READ),
    FUZZED(wg_counters, HANDLE | NULLS),
    FUZZED(wg_peer_stats, HANDLE | READ | OF(WG_ERR_NOT_FOUND)),
    FUZZED(wg_peers, HANDLE | READ),
    FUZZED(wg_memory_usage, HANDLE | READ),
    FUZZED(wg_trim, HANDLE),
    FUZZED(wg_set_event_callback, RUNNING),
    FUZZED(wg_set_tunnel_log_callback, HANDLE),
    FUZZED(wg_set_log_callback, 0),
    FUZZED(wg_set_log_level, OF(WG_ERR_INVALID)),
    FUZZED(wg_resolve_system, READ | OF(WG_ERR_IO) | OF(WG_ERR_NOT_FOUND)),
    FUZZED(wg_generate_private_key, NULLS),
    FUZZED(wg_generate_public_key, NULLS),
    FUZZED(wg_generate_preshared_key, NULLS),
    FUZZED(wg_key_to_hex, NULLS),
    FUZZED(wg_key_to_base64, NULLS),
    FUZZED(wg_key_from_hex, READ),
    FUZZED(wg_key_from_base64, READ),
    FUZZED(wg_endpoint_parse, READ | OF(WG_ERR_NOT_FOUND)),
    FUZZED(wg_endpoint_format, READ),
    FUZZED(wg_endpoint_format_source, READ),
    FUZZED(wg_endpoint_clear_source, NULLS),
    FUZZED(wg_bind_open, OPEN),
    FUZZED(wg_bind_adopt, OPEN),
    FUZZED(wg_bind_reopen, RUNNING | OPEN),
    FUZZED(wg_bind_close, HANDLE),
    FUZZED(wg_bind_batch_size, HANDLE),
    FUZZED(wg_bind_set_mark, RUNNING | OF(WG_ERR_PERMISSION)),
    FUZZED(wg_bind_set_interface, RUNNING | TIE | OF(WG_ERR_INVALID)),
    FUZZED(wg_bind_peek_fd, RUNNING | OF(WG_ERR_INVALID) | OF(WG_ERR_UNSUPPORTED)),
    FUZZED(wg_bind_send, RUNNING | READ | OF(WG_ERR_TOO_LARGE) | OF(WG_ERR_UNSUPPORTED)),
    FUZZED(wg_bind_recv, RUNNING | READ | OF(WG_ERR_UNSUPPORTED) | OF(WG_ERR_IO)),
};

/* Threads. */

static void *calls(void *argument) {
  struct caller *c = argument;
  while (!atomic_load(&done)) {
    c->function = &functions[below(&c->dice, COUNT_OF(functions))];
    if (atomic_load(&c->function->calls) < 8 * ENOUGH) c->function->call(c);
  }
  return NULL;
}

/* A pair of tunnels with everything set, on, passing packets, and off; and a bind. Others may be at them all the time. */
static void *turns_on_and_off(void *argument) {
  struct caller *c = argument;
  while (!atomic_load(&done)) {
    wg_options_t options = WG_OPTIONS_INIT;
    struct descriptor ends[2];
    unsigned char packet[1500];
    int i, round;
    for (i = 0; i < 2; i++) {
      char text[512];
      int32_t handle;
      struct token *token = new_token(), *events = new_token();
      ends[i] = pair_of(i ? SOCK_DGRAM : SOCK_SEQPACKET);
      options.tun_fd = ends[i].fd;
      options.protect = protects;
      options.protect_user = token;
      options.protect_destroy = destroy_token;
      snprintf(text, sizeof text, "private_key=%s\npublic_key=%s\nendpoint=127.0.0.1:9\nallowed_ip=10.9.0.%d/32\n",
               i ? PRIVATE_B : PRIVATE_A, i ? PUBLIC_A : PUBLIC_B, i ? 1 : 2);
      handle = wg_turn_on_with(&options, text);
      settle(token, handle < 0, 1);
      if (handle < 0) {
        CHECK_EQ(handle, WG_ERR_PERMISSION); /* as `protects` has it */
        close(ends[i].fd);
      }
      settle(events, wg_set_event_callback(handle, takes_events, events, destroy_token) != WG_OK, 1);
      atomic_store(&tunnels[c->slot + i], handle);
    }
    atomic_store(&binds[c->slot], wg_bind_open(NULL, NULL));
    for (round = 0; round < 5; round++) {
      for (i = 0; i < 2; i++) {
        char *text = NULL, line[128];
        make_packet(packet, 100, i ? 2 : 1, i ? 1 : 2, round);
        (void)send(ends[i].other, packet, 100, MSG_DONTWAIT | MSG_NOSIGNAL);
        while (recv(ends[i].other, packet, sizeof packet, MSG_DONTWAIT) > 0) continue;
        if (wg_get_config(atomic_load(&tunnels[c->slot + 1 - i]), &text) == WG_OK) {
          const char *port = strstr(text, "listen_port=");
          snprintf(line, sizeof line, "public_key=%s\nendpoint=127.0.0.1:%d\n", i ? PUBLIC_A : PUBLIC_B,
                   port ? atoi(port + 12) : 9);
          wg_free(text);
          (void)wg_set_config(atomic_load(&tunnels[c->slot + i]), line);
        }
      }
      sleep_ms(1);
    }
    for (i = 0; i < 2; i++) {
      end_tunnel(atomic_exchange(&tunnels[c->slot + i], 0));
      close(ends[i].other);
    }
    end_bind(atomic_exchange(&binds[c->slot], 0));
  }
  return NULL;
}

static unsigned long fewest_calls(const char **name) {
  unsigned long fewest = ULONG_MAX;
  size_t i;
  for (i = 0; i < COUNT_OF(functions); i++) {
    unsigned long calls = atomic_load(&functions[i].calls);
    if (calls < fewest) fewest = calls, *name = functions[i].name;
  }
  return fewest;
}

int main(int argc, char **argv) {
  unsigned long seed = argc > 1 ? strtoul(argv[1], NULL, 0) : 20261122, total = 0, failed = 0;
  long limit = argc > 2 ? atol(argv[2]) : 25, begin = (long)time(NULL);
  static struct caller callers[CALLERS + TURNERS];
  pthread_t threads_of_ours[CALLERS + TURNERS];
  struct rlimit files;
  const char *name = "";
  int i, fds, tasks;
  alarm((unsigned)limit + 60); /* Whatever hangs, fails. */
  CHECK_EQ(getrlimit(RLIMIT_NOFILE, &files), 0);
  files.rlim_cur = files.rlim_max < 4096 ? files.rlim_max : 4096;
  CHECK_EQ(setrlimit(RLIMIT_NOFILE, &files), 0);
  printf("seed %lu\n", seed);
  fflush(stdout);
  fds = open_fds();
  tasks = threads();
  for (i = 0; i < CALLERS + TURNERS; i++) {
    callers[i].dice.state = seed * 1000 + (unsigned long)i;
    callers[i].slot = i < CALLERS ? i : CALLERS + 2 * (i - CALLERS);
    callers[i].number = CLOSED_NUMBERS + i;
    start(&threads_of_ours[i], i < CALLERS ? calls : turns_on_and_off, &callers[i]);
  }
  while ((long)time(NULL) - begin < limit && fewest_calls(&name) < ENOUGH) sleep_ms(20);
  atomic_store(&done, 1);
  for (i = 0; i < CALLERS + TURNERS; i++) join(threads_of_ours[i]);
  for (i = 0; i < SLOTS; i++) {
    end_tunnel(atomic_load(&tunnels[i]));
    end_bind(atomic_load(&binds[i]));
  }
  CHECK_EQ(wg_set_log_callback(NULL, NULL, NULL), WG_OK);
  check_threads(tasks);
  CHECK_EQ(open_fds(), fds);
  CHECK_EQ(atomic_load(&tokens), 0); /* each `destroy` was called */
  if (fewest_calls(&name) < AT_LEAST) {
    fprintf(stderr, "%s was called %lu times only, in %ld s\n", name, fewest_calls(&name), limit);
    return 1;
  }
  for (i = 0; i < (int)COUNT_OF(functions); i++) {
    unsigned long calls = atomic_load(&functions[i].calls), failures = atomic_load(&functions[i].failures);
    total += calls;
    failed += failures;
    if (calls > failures && (failures > 0) == (functions[i].errors != 0)) continue;
    fprintf(stderr, "%s failed %lu times of %lu: it was not called well\n", functions[i].name, failures, calls);
    return 1;
  }
  printf("%zu functions, %lu calls in %ld s, %lu refused; %s was called least, %lu times\n", COUNT_OF(functions), total,
         (long)time(NULL) - begin, failed, name, fewest_calls(&name));
  return 0;
}
