/* The log: what comes, from where, until when; and calls back into the library. */
#include "check.h"

/* A pointer that belongs to a callback. It is freed by `destroyed`, so that a sanitizer sees any later use. */
struct sink {
  int lines, running, last_level, slow;
  int32_t last_handle;
  int *destroyed;
  char last[512];
  pthread_mutex_t lock;
};

static struct sink *new_sink(int *destroyed) {
  struct sink *sink = calloc(1, sizeof *sink);
  CHECK(sink != NULL);
  pthread_mutex_init(&sink->lock, NULL);
  sink->destroyed = destroyed;
  return sink;
}

static void destroyed(void *user) {
  struct sink *sink = user;
  CHECK_EQ(__sync_fetch_and_add(&sink->running, 0), 0);
  __sync_fetch_and_add(sink->destroyed, 1);
  pthread_mutex_destroy(&sink->lock);
  free(sink);
}

static void takes_lines(void *user, int32_t handle, int32_t level, const char *text) {
  struct sink *sink = user;
  __sync_fetch_and_add(&sink->running, 1);
  CHECK(level >= WG_LOG_ERROR && level <= WG_LOG_TRACE);
  CHECK(text[0] != '\0' && text[strlen(text) - 1] != '\n');
  CHECK(strstr(text, PRIVATE_A) == NULL && strstr(text, PRIVATE_B) == NULL && strstr(text, PSK) == NULL);
  if (sink->slow) sleep_ms(sink->slow);
  pthread_mutex_lock(&sink->lock);
  sink->lines++;
  sink->last_handle = handle;
  sink->last_level = level;
  snprintf(sink->last, sizeof sink->last, "%s", text);
  pthread_mutex_unlock(&sink->lock);
  __sync_fetch_and_sub(&sink->running, 1);
}

static int lines(struct sink *sink) {
  int lines;
  pthread_mutex_lock(&sink->lock);
  lines = sink->lines;
  pthread_mutex_unlock(&sink->lock);
  return lines;
}

static void set(struct sink *sink) { CHECK_EQ(wg_set_log_callback(takes_lines, sink, destroyed), WG_OK); }
static void unset(void) { CHECK_EQ(wg_set_log_callback(NULL, NULL, NULL), WG_OK); }

/* Logs a line at WG_LOG_DEBUG on this thread. */
static void make_a_line(void) { turn_off(turn_on(SOCK_DGRAM, "private_key=" PRIVATE_A "\n")); }

static void lines_say_whose_they_are(void) {
  int gone = 0;
  struct sink *sink = new_sink(&gone);
  struct end a, b;
  set(sink);
  CHECK_EQ(wg_set_log_level(WG_LOG_DEBUG), WG_OK);
  a = turn_on(SOCK_DGRAM, "private_key=" PRIVATE_A "\n");
  CHECK(lines(sink) > 0);
  CHECK_EQ(sink->last_handle, a.handle);
  CHECK_EQ(sink->last_level, WG_LOG_DEBUG);
  CHECK_EQ(strcmp(sink->last, "the interface is up"), 0);
  b = turn_on(SOCK_DGRAM, "private_key=" PRIVATE_B "\n");
  CHECK_EQ(sink->last_handle, b.handle);
  CHECK_EQ(wg_turn_off(b.handle), WG_OK);
  CHECK_EQ(sink->last_handle, b.handle);
  CHECK_EQ(strcmp(sink->last, "the interface is down"), 0);
  turn_off(a);
  CHECK_EQ(sink->last_handle, a.handle);
  close(b.app);

  /* Lines of the tunnels' own threads, with values. */
  CHECK_EQ(wg_set_log_level(WG_LOG_TRACE), WG_OK);
  turn_on_both(SOCK_DGRAM, &a, &b);
  check_exchange(a, b);
  turn_off(a);
  turn_off(b);
  CHECK(lines(sink) > 8);
  unset();
  CHECK_EQ(gone, 1);
}

static void levels_are_kept(void) {
  int gone = 0, before;
  struct sink *sink = new_sink(&gone);
  set(sink);
  CHECK_EQ(wg_set_log_level(WG_LOG_INFO), WG_OK);
  make_a_line();
  CHECK_EQ(lines(sink), 0);
  CHECK_EQ(wg_set_log_level(WG_LOG_TRACE), WG_OK);
  make_a_line();
  CHECK(lines(sink) > 0);
  CHECK_FAILS(wg_set_log_level(6), WG_ERR_INVALID, "log level 6");
  CHECK_FAILS(wg_set_log_level(-1), WG_ERR_INVALID, "log level -1");
  before = lines(sink);
  make_a_line();
  CHECK(lines(sink) > before);
  CHECK_EQ(wg_set_log_level(WG_LOG_OFF), WG_OK);
  before = lines(sink);
  make_a_line();
  CHECK_EQ(lines(sink), before);
  CHECK_EQ(wg_set_log_level(WG_LOG_DEBUG), WG_OK);
  unset();
}

/* An error on a tunnel's own thread. */
static void the_end_of_a_tunnel_is_logged(void) {
  int gone = 0, i;
  struct sink *sink = new_sink(&gone);
  struct end a;
  set(sink);
  CHECK_EQ(wg_set_log_level(WG_LOG_ERROR), WG_OK);
  a = turn_on(SOCK_SEQPACKET, "");
  close(a.app);
  for (i = 0; i < 1000 && lines(sink) == 0; i++) sleep_ms(5);
  CHECK_EQ(lines(sink), 1);
  unset();
  CHECK_EQ(wg_turn_off(a.handle), WG_OK);
  CHECK_EQ(wg_set_log_level(WG_LOG_DEBUG), WG_OK);
  CHECK_EQ(gone, 1);
}

static void each_pointer_is_destroyed_once(void) {
  int first = 0, second = 0, none = 0;
  struct sink *kept;
  set(new_sink(&first));
  CHECK_EQ(first, 0);
  set(new_sink(&second));
  CHECK_EQ(first, 1);
  CHECK_EQ(wg_set_log_callback(NULL, new_sink(&none), destroyed), WG_OK);
  CHECK_EQ(second, 1);
  CHECK_EQ(none, 1);
  unset();
  make_a_line();
  /* Without `destroy` it stays the caller's. */
  kept = new_sink(&none);
  CHECK_EQ(wg_set_log_callback(takes_lines, kept, NULL), WG_OK);
  unset();
  CHECK_EQ(first + second + none, 3);
  destroyed(kept);
}

/* Calls back into the library. */

struct reentry {
  int32_t other;
  int fd, calls, destroyed, refused;
};

static void counts(void *user) { __sync_fetch_and_add((int *)user, 1); }

static void calls_back(void *user, int32_t handle, int32_t level, const char *text) {
  struct reentry *state = user;
  wg_options_t options = WG_OPTIONS_INIT;
  char *out = NULL;
  int i;
  (void)text;
  (void)level;
  for (i = 0; i < 2; i++) {
    int32_t on = i == 0 ? handle : state->other;
    CHECK_FAILS(wg_turn_off(on), WG_ERR_BUSY, "inside a callback");
    CHECK_FAILS(wg_set_config(on, ""), WG_ERR_BUSY, "inside a callback");
    CHECK_FAILS(wg_get_config(on, &out), WG_ERR_BUSY, "inside a callback");
  }
  options.tun_fd = state->fd;
  CHECK_FAILS(wg_turn_on(state->fd, ""), WG_ERR_BUSY, "inside a callback");
  CHECK_FAILS(wg_turn_on_with(&options, ""), WG_ERR_BUSY, "inside a callback");
  CHECK_FAILS(wg_set_log_callback(takes_lines, &state->refused, counts), WG_ERR_BUSY, "inside a callback");
  CHECK_FAILS(wg_set_log_callback(NULL, NULL, NULL), WG_ERR_BUSY, "inside a callback");
  CHECK(out == NULL && is_open(state->fd));
  CHECK_EQ(wg_set_log_level(WG_LOG_DEBUG), WG_OK);
  CHECK_EQ(wg_set_log_level(99), WG_ERR_INVALID);
  CHECK_EQ(wg_version_number(), WG_VERSION_NUMBER);
  CHECK(wg_version_string()[0] != '\0');
  wg_free(NULL);
  __sync_fetch_and_add(&state->calls, 1);
}

static void calls_back_in_destroy(void *user) {
  struct reentry *state = user;
  CHECK_FAILS(wg_set_log_callback(NULL, NULL, NULL), WG_ERR_BUSY, "inside a callback");
  CHECK_EQ(wg_turn_off(state->other), WG_ERR_BUSY);
  state->destroyed++;
}

static void calls_back_are_refused_and_never_hang(void) {
  struct end other = turn_on(SOCK_DGRAM, ""), a, b;
  struct reentry state;
  int pair[2];
  memset(&state, 0, sizeof state);
  make_pair(SOCK_DGRAM, pair);
  state.fd = pair[0];
  state.other = other.handle;
  CHECK_EQ(wg_set_log_callback(calls_back, &state, calls_back_in_destroy), WG_OK);
  CHECK_EQ(wg_set_log_level(WG_LOG_DEBUG), WG_OK);
  /* On this thread and on the tunnels' own. */
  a = turn_on(SOCK_DGRAM, "private_key=" PRIVATE_A "\n");
  CHECK(state.calls == 1 && state.refused == 1);
  turn_off(a);
  turn_on_both(SOCK_DGRAM, &a, &b);
  check_passes(a.app, b.app, 1, 2, 1);
  turn_off(a);
  turn_off(b);
  unset();
  CHECK_EQ(state.destroyed, 1);
  CHECK(state.calls > 8);
  CHECK_EQ(state.refused, state.calls);
  close(pair[0]);
  close(pair[1]);
  turn_off(other);
}

/* Removal. */

static void *makes_a_line(void *argument) {
  (void)argument;
  make_a_line();
  return NULL;
}

static void removal_waits_for_what_is_running(void) {
  int gone = 0;
  struct sink *sink = new_sink(&gone);
  pthread_t thread;
  sink->slow = 100;
  set(sink);
  start(&thread, makes_a_line, NULL);
  while (__sync_fetch_and_add(&sink->running, 0) == 0) sleep_ms(1);
  unset(); /* `destroyed` checks that none is running */
  CHECK_EQ(gone, 1);
  join(thread);
}

static int stop;

static void *logs_all_the_time(void *argument) {
  struct end a = turn_on(SOCK_DGRAM, "private_key=" PRIVATE_A "\n");
  (void)argument;
  while (!__sync_fetch_and_add(&stop, 0)) {
    make_a_line();
    /* A handshake with nobody. */
    CHECK_EQ(wg_set_config(a.handle, "replace_peers=true\npublic_key=" PUBLIC_B
                                     "\nendpoint=127.0.0.1:9\npersistent_keepalive_interval=1\n"),
             WG_OK);
  }
  turn_off(a);
  return NULL;
}

static void callbacks_change_while_many_threads_log(void) {
  pthread_t loggers[4];
  int i, gone = 0, called = 0;
  CHECK_EQ(wg_set_log_level(WG_LOG_TRACE), WG_OK);
  for (i = 0; i < 4; i++) start(&loggers[i], logs_all_the_time, NULL);
  for (i = 0; i < 300; i++) {
    struct sink *sink = new_sink(&gone);
    set(sink);
    if (i % 3 == 0) {
      sleep_ms(2);
      called += lines(sink) > 0;
      unset();
      CHECK_EQ(gone, i + 1);
    }
  }
  unset();
  CHECK_EQ(gone, 300);
  CHECK(called > 0);
  stop = 1;
  for (i = 0; i < 4; i++) join(loggers[i]);
}

int main(void) {
  int fds = open_fds(), tasks = threads();
  lines_say_whose_they_are();
  levels_are_kept();
  the_end_of_a_tunnel_is_logged();
  each_pointer_is_destroyed_once();
  calls_back_are_refused_and_never_hang();
  removal_waits_for_what_is_running();
  callbacks_change_while_many_threads_log();
  CHECK_EQ(open_fds(), fds);
  check_threads(tasks);
  return 0;
}
