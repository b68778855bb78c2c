/*
 * Every function of the header, thousands of times, with what no program should pass, on several threads, while others
 * turn tunnels and binds on and off under them: nothing crashes, hangs or is left behind, and each call ends as its
 * text says.
 *
 *     fuzz [SEED [SECONDS]]
 *
 * capi/ffi/tests/c_abi/main.rs sees to it that no function is missing.
 */
#include "fuzz_udp.h"
#include "fuzz_tunnel.h"
#include "fuzz_watch.h"

/* How often each is called, and at least, in the time that there is; ThreadSanitizer is many times slower. */
#ifdef __SANITIZE_THREAD__
enum { ENOUGH = 5000, AT_LEAST = 100 };
#else
enum { ENOUGH = 5000, AT_LEAST = 1000 };
#endif

static atomic_int done;

/* Keys. */

static void fuzz_made_key(struct caller *c, wg_result_t (*make)(uint8_t *)) {
  uint8_t *key = new_room(WG_KEY_LEN);
  free_room(key, status(c, make(one_in(&c->dice, 8) ? NULL : key)) ? WG_KEY_LEN : 0, WG_KEY_LEN);
}

static void fuzz_wg_keys_generate_private(struct caller *c) { fuzz_made_key(c, wg_keys_generate_private); }
static void fuzz_wg_keys_generate_preshared(struct caller *c) { fuzz_made_key(c, wg_keys_generate_preshared); }

static void any_key(struct caller *c, uint8_t key[WG_KEY_LEN]) {
  size_t i, all = below(&c->dice, 4);
  for (i = 0; i < WG_KEY_LEN; i++) key[i] = (uint8_t)(all == 0 ? 0 : all == 1 ? 0xff : roll(&c->dice));
}

static void fuzz_wg_keys_derive_public(struct caller *c) {
  uint8_t key[WG_KEY_LEN], *out = new_room(WG_KEY_LEN);
  any_key(c, key);
  free_room(out, status(c, wg_keys_derive_public(one_in(&c->dice, 8) ? NULL : key, one_in(&c->dice, 8) ? NULL : out))
                     ? WG_KEY_LEN
                     : 0,
            WG_KEY_LEN);
}

static void fuzz_key_to(struct caller *c, wg_result_t (*write)(const uint8_t *, char *), size_t len) {
  uint8_t key[WG_KEY_LEN];
  char *text = new_room(len);
  int written;
  any_key(c, key);
  written = status(c, write(one_in(&c->dice, 8) ? NULL : key, one_in(&c->dice, 8) ? NULL : text));
  if (written) CHECK_EQ(strlen(text), len - 1);
  free_room(text, written ? len : 0, len);
}

static void fuzz_wg_keys_to_hex(struct caller *c) { fuzz_key_to(c, wg_keys_to_hex, WG_KEY_HEX_LEN); }
static void fuzz_wg_keys_to_base64(struct caller *c) { fuzz_key_to(c, wg_keys_to_base64, WG_KEY_BASE64_LEN); }

static void fuzz_key_from(struct caller *c, wg_result_t (*read)(const char *, uint8_t *), const char *right) {
  uint8_t *key = new_room(WG_KEY_LEN);
  const char *text = any_text(&c->dice, &right, 1, c->text, 128);
  free_room(key, status(c, read(text, one_in(&c->dice, 8) ? NULL : key)) ? WG_KEY_LEN : 0, WG_KEY_LEN);
}

static void fuzz_wg_keys_from_hex(struct caller *c) { fuzz_key_from(c, wg_keys_from_hex, PRIVATE_A); }

static void fuzz_wg_keys_from_base64(struct caller *c) {
  fuzz_key_from(c, wg_keys_from_base64, "QEFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=");
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

static void fuzz_endpoint_format(struct caller *c, wg_result_t (*format)(const wg_endpoint_t *, char *)) {
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

static void fuzz_wg_endpoint_from_sockaddr(struct caller *c) {
  size_t len = below(&c->dice, 2) ? sizeof(struct sockaddr_in6) : below(&c->dice, 300), i;
  unsigned char *address = malloc(len + 1);
  wg_endpoint_t *endpoint = new_room(sizeof *endpoint);
  sa_family_t family = below(&c->dice, 2) ? AF_INET : AF_INET6;
  int read;
  CHECK(address != NULL);
  for (i = 0; i < len; i++) address[i] = (unsigned char)roll(&c->dice);
  if (len >= sizeof family && !one_in(&c->dice, 8)) memcpy(address, &family, sizeof family);
  read = status(c, wg_endpoint_from_sockaddr(one_in(&c->dice, 20) ? NULL : address, len,
                                             one_in(&c->dice, 20) ? NULL : endpoint));
  free_room(endpoint, read ? sizeof *endpoint : 0, sizeof *endpoint);
  free(address);
}

static void fuzz_wg_endpoint_to_sockaddr(struct caller *c) {
  wg_endpoint_t endpoint = any_endpoint(&c->dice);
  size_t room = below(&c->dice, 40), len = room;
  unsigned char *address = new_room(room);
  int written = status(c, wg_endpoint_to_sockaddr(one_in(&c->dice, 20) ? NULL : &endpoint,
                                                  one_in(&c->dice, 20) ? NULL : address,
                                                  one_in(&c->dice, 20) ? NULL : &len));
  if (!written) CHECK_EQ(len, room);
  free_room(address, written ? len : 0, room);
}

static void fuzz_wg_endpoint_clear_source(struct caller *c) {
  wg_endpoint_t endpoint = any_endpoint(&c->dice);
  status(c, wg_endpoint_clear_source(one_in(&c->dice, 8) ? NULL : &endpoint));
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
#define GIVE (READ | OF(WG_ERR_TOO_LARGE) | OF(WG_ERR_UNSUPPORTED))
#define NULLS OF(WG_ERR_NULL)
#define FUZZED(name, errors) {#name, fuzz_##name, errors, 0, 0}

static struct function functions[] = {
    FUZZED(wg_version_string, 0),
    FUZZED(wg_version_number, 0),
    FUZZED(wg_last_error, 0),
    FUZZED(wg_result_text, 0),
    FUZZED(wg_conf_parse, READ | OF(WG_ERR_TOO_LARGE) | OF(WG_ERR_RESOURCES)),
    FUZZED(wg_conf_changes, READ | OF(WG_ERR_TOO_LARGE) | OF(WG_ERR_RESOURCES)),
    FUZZED(wg_free, 0),
    FUZZED(wg_turn_on, TURN_ON),
    FUZZED(wg_turn_on_with, TURN_ON),
    FUZZED(wg_turn_off, HANDLE),
    FUZZED(wg_turn_off_within, HANDLE | OF(WG_ERR_TIMED_OUT)),
    FUZZED(wg_set_tun_fd, RUNNING | SYSTEM | OF(WG_ERR_INVALID) | OF(WG_ERR_UNSUPPORTED) | OF(WG_ERR_NOT_FOUND)),
    FUZZED(wg_set_config, RUNNING | TEXT | SYSTEM),
    FUZZED(wg_get_config, HANDLE | NULLS | OF(WG_ERR_RESOURCES)),
    FUZZED(wg_get_config_public, HANDLE | NULLS | OF(WG_ERR_RESOURCES)),
    FUZZED(wg_public_key, HANDLE | NULLS | OF(WG_ERR_NOT_FOUND)),
    FUZZED(wg_listen_port, HANDLE),
    FUZZED(wg_set_peer, RUNNING | GIVE | OF(WG_ERR_RESOURCES)),
    FUZZED(wg_remove_peer, RUNNING | NULLS | OF(WG_ERR_NOT_FOUND)),
    FUZZED(wg_force_handshake, RUNNING | OF(WG_ERR_NOT_FOUND)),
    FUZZED(wg_drop_session, RUNNING | OF(WG_ERR_NOT_FOUND)),
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
    FUZZED(wg_event_fd, HANDLE | OF(WG_ERR_UNSUPPORTED)),
    FUZZED(wg_next_event, RUNNING | READ | OF(WG_ERR_UNSUPPORTED)),
    FUZZED(wg_set_tunnel_log_level, HANDLE | OF(WG_ERR_INVALID)),
    FUZZED(wg_resolve_system, READ | OF(WG_ERR_IO) | OF(WG_ERR_NOT_FOUND)),
    FUZZED(wg_keys_generate_private, NULLS),
    FUZZED(wg_keys_derive_public, NULLS),
    FUZZED(wg_keys_generate_preshared, NULLS),
    FUZZED(wg_keys_to_hex, NULLS),
    FUZZED(wg_keys_to_base64, NULLS),
    FUZZED(wg_keys_from_hex, READ),
    FUZZED(wg_keys_from_base64, READ),
    FUZZED(wg_endpoint_parse, READ | OF(WG_ERR_NOT_FOUND)),
    FUZZED(wg_endpoint_format, READ),
    FUZZED(wg_endpoint_format_source, READ),
    FUZZED(wg_endpoint_from_sockaddr, READ | OF(WG_ERR_UNSUPPORTED)),
    FUZZED(wg_endpoint_to_sockaddr, READ),
    FUZZED(wg_endpoint_clear_source, NULLS),
    FUZZED(wg_tun_inject, RUNNING | GIVE),
    FUZZED(wg_transport_receive, RUNNING | GIVE),
    FUZZED(wg_set_mtu, RUNNING | OF(WG_ERR_INVALID) | OF(WG_ERR_UNSUPPORTED)),
    FUZZED(wg_udp_open, OPEN),
    FUZZED(wg_udp_adopt, OPEN),
    FUZZED(wg_udp_reopen, RUNNING | OPEN),
    FUZZED(wg_udp_close, HANDLE),
    FUZZED(wg_udp_batch_size, HANDLE),
    FUZZED(wg_udp_set_mark, RUNNING | OF(WG_ERR_PERMISSION)),
    FUZZED(wg_udp_set_interface, RUNNING | TIE | OF(WG_ERR_INVALID)),
    FUZZED(wg_udp_peek_fd, RUNNING | OF(WG_ERR_INVALID) | OF(WG_ERR_UNSUPPORTED)),
    FUZZED(wg_udp_send, RUNNING | READ | OF(WG_ERR_TOO_LARGE) | OF(WG_ERR_UNSUPPORTED)),
    FUZZED(wg_udp_recv, RUNNING | READ | OF(WG_ERR_UNSUPPORTED) | OF(WG_ERR_IO)),
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

/* A pair of tunnels with everything set, on, passing packets, and off; and a bind. Other threads may use them too. */
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
    atomic_store(&binds[c->slot], wg_udp_open(NULL, NULL));
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
    fprintf(stderr, "%s failed %lu times of %lu: it was not called well enough\n", functions[i].name, failures, calls);
    return 1;
  }
  printf("%zu functions, %lu calls in %ld s, %lu refused; %s was called least, %lu times\n", COUNT_OF(functions), total,
         (long)time(NULL) - begin, failed, name, fewest_calls(&name));
  return 0;
}
