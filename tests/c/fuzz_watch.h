/* Fuzzed calls that watch tunnels: numbers, events, the log, errors; and the resolver. */
#ifndef FUZZ_WATCH_H
#define FUZZ_WATCH_H

#include "fuzz_call.h"
#include "fuzz_tunnel.h"

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

static void fuzz_wg_event_fd(struct caller *c) { number(c, wg_event_fd(tunnel(c))); }

static void fuzz_wg_next_event(struct caller *c) {
  size_t size = any_size(&c->dice, sizeof(wg_event_t)), real = real_size(size, sizeof(wg_event_t));
  void *room = new_room(real);
  int32_t got;
  memcpy(room, &size, sizeof size);
  got = wg_next_event(tunnel(c), one_in(&c->dice, 20) ? NULL : room, (int32_t)below(&c->dice, 3));
  number(c, got);
  CHECK(memcmp(room, &size, sizeof size) == 0);
  if (got != 1) memset(room, FILL, sizeof size);
  free_room(room, got == 1 ? size : 0, real);
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

static void fuzz_wg_set_log_level(struct caller *c) { status(c, wg_set_log_level(any_level(c))); }

static void fuzz_wg_set_tunnel_log_level(struct caller *c) {
  status(c, wg_set_tunnel_log_level(tunnel(c), any_level(c)));
}

static void fuzz_wg_result_text(struct caller *c) { fine(c, strlen(wg_result_text((int32_t)roll(&c->dice))) > 5); }

static const char *any_conf(struct caller *c, size_t *len) {
  static const char *const right[] = {"[Interface]\n", "[Interface]\nMTU=1400\nAddress=::,::\nPostUp=x\n", "[Peer]", "MTU=1"};
  const char *text = any_text(&c->dice, right, COUNT_OF(right), c->text, 200);
  /* Sometimes with its zero, and a length that is refused before anything is read. */
  *len = text == NULL ? below(&c->dice, 9) : strlen(text) + one_in(&c->dice, 8);
  if (one_in(&c->dice, 20)) *len = WG_CONFIG_LEN_MAX + 1 + below(&c->dice, 9);
  return text;
}

static void fuzz_wg_conf_changes(struct caller *c) {
  static const char file[] = "[Interface]\nListenPort=1\n";
  char *uapi = NULL;
  size_t len;
  const char *text = any_conf(c, &len);
  status(c, wg_conf_changes(text, len, file, sizeof file - 1, one_in(&c->dice, 8) ? NULL : &uapi));
  wg_free(uapi);
}

static void fuzz_wg_conf_parse(struct caller *c) {
  char *uapi = NULL, *settings = NULL;
  size_t len;
  const char *text = any_conf(c, &len);
  status(c, wg_conf_parse(text, len, one_in(&c->dice, 8) ? NULL : &uapi, one_in(&c->dice, 8) ? NULL : &settings));
  wg_free(uapi);
  wg_free(settings);
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

#endif
