/* The log: what comes, from where, until when. */
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

/* Logs lines at WG_LOG_INFO on this thread. */
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
  CHECK_EQ(sink->last_level, WG_LOG_INFO);
  CHECK_TEXT(sink->last, "the interface is up");
  b = turn_on(SOCK_DGRAM, "private_key=" PRIVATE_B "\n");
  CHECK_EQ(sink->last_handle, b.handle);
  CHECK_EQ(wg_turn_off(b.handle), WG_OK);
  CHECK_EQ(sink->last_handle, b.handle);
  CHECK_TEXT(sink->last, "the interface is down");
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
  CHECK_EQ(wg_set_log_level(WG_LOG_WARN), WG_OK);
  make_a_line();
  CHECK_EQ(lines(sink), 0);
  CHECK_EQ(wg_set_log_level(WG_LOG_INFO), WG_OK);
  make_a_line();
  CHECK_EQ(lines(sink), 2); /* on, off */
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
  for (i = 0; i < TRIES && lines(sink) == 0; i++) sleep_ms(5);
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

/* A log of a tunnel's own. */

static void a_tunnel_may_have_a_log_of_its_own(void) {
  int gone = 0, before;
  struct sink *common = new_sink(&gone), *own = new_sink(&gone);
  struct end a, b;
  set(common);
  turn_on_both(SOCK_DGRAM, &a, &b);
  before = lines(common);
  CHECK_EQ(wg_set_tunnel_log_callback(a.handle, takes_lines, own, destroyed), WG_OK);
  check_exchange(a, b);
  CHECK(lines(own) > 0 && lines(common) > before);
  CHECK_EQ(own->last_handle, a.handle);
  CHECK_EQ(common->last_handle, b.handle);
  /* Without it the lines go where they went before. */
  CHECK_EQ(wg_set_tunnel_log_callback(a.handle, NULL, NULL, NULL), WG_OK);
  CHECK_EQ(gone, 1);
  turn_off(a);
  CHECK_EQ(common->last_handle, a.handle);
  unset();
  CHECK_EQ(gone, 2);

  /* It does not need the other, keeps to the level, and has the tunnel's last line. */
  own = new_sink(&gone);
  CHECK_EQ(wg_set_tunnel_log_callback(b.handle, takes_lines, own, NULL), WG_OK);
  make_a_line();
  CHECK_EQ(lines(own), 0);
  CHECK_EQ(wg_set_log_level(WG_LOG_INFO), WG_OK);
  CHECK_EQ(wg_set_config(b.handle, "listen_port=0\n"), WG_OK);
  add_peer(b, PUBLIC_A, 9, 1);
  CHECK_EQ(lines(own), 0);
  CHECK_EQ(wg_set_log_level(WG_LOG_DEBUG), WG_OK);
  turn_off(b);
  CHECK(lines(own) > 0);
  CHECK_EQ(own->last_handle, b.handle);
  CHECK_TEXT(own->last, "the interface is down");
  CHECK_EQ(gone, 2);
  destroyed(own);

  /* It goes with the tunnel, and a tunnel that is gone takes none. */
  gone = 0;
  a = turn_on(SOCK_DGRAM, "");
  CHECK_EQ(wg_set_tunnel_log_callback(a.handle, takes_lines, new_sink(&gone), destroyed), WG_OK);
  CHECK_EQ(wg_set_tunnel_log_callback(a.handle, takes_lines, new_sink(&gone), destroyed), WG_OK);
  CHECK_EQ(gone, 1);
  turn_off(a);
  CHECK_EQ(gone, 2);
  CHECK_FAILS(wg_set_tunnel_log_callback(a.handle, takes_lines, new_sink(&gone), destroyed), WG_ERR_UNKNOWN_HANDLE,
              "handle");
  CHECK_EQ(gone, 3);
}

static void a_tunnel_may_have_a_level_of_its_own(void) {
  int gone = 0, before;
  struct sink *sink = new_sink(&gone);
  struct end a, b;
  set(sink);
  CHECK_EQ(wg_set_log_level(WG_LOG_OFF), WG_OK);
  a = turn_on(SOCK_DGRAM, "private_key=" PRIVATE_A "\n");
  b = turn_on(SOCK_DGRAM, "private_key=" PRIVATE_B "\n");
  CHECK_EQ(lines(sink), 0);
  CHECK_FAILS(wg_set_tunnel_log_level(a.handle, 6), WG_ERR_INVALID, "log level 6");
  CHECK_FAILS(wg_set_tunnel_log_level(a.handle, -2), WG_ERR_INVALID, "log level -2");
  CHECK_FAILS(wg_set_tunnel_log_level(INT32_MAX, WG_LOG_INFO), WG_ERR_UNKNOWN_HANDLE, "handle");
  CHECK_EQ(wg_set_tunnel_log_level(a.handle, WG_LOG_DEBUG), WG_OK);
  turn_off(b);
  CHECK_EQ(lines(sink), 0);
  turn_off(a);
  CHECK(lines(sink) > 0);
  CHECK_EQ(sink->last_handle, a.handle);
  /* And a lower one than that of the process. */
  CHECK_EQ(wg_set_log_level(WG_LOG_TRACE), WG_OK);
  a = turn_on(SOCK_DGRAM, "private_key=" PRIVATE_A "\n");
  CHECK_EQ(wg_set_tunnel_log_level(a.handle, WG_LOG_OFF), WG_OK);
  before = lines(sink);
  CHECK_EQ(wg_pause(a.handle), WG_OK);
  CHECK_EQ(lines(sink), before);
  CHECK_EQ(wg_set_tunnel_log_level(a.handle, WG_LOG_INHERIT), WG_OK);
  CHECK_EQ(wg_resume(a.handle), WG_OK);
  CHECK(lines(sink) > before);
  CHECK_EQ(wg_set_tunnel_log_level(a.handle, WG_LOG_OFF), WG_OK);
  before = lines(sink);
  turn_off(a);
  CHECK_EQ(lines(sink), before);
  CHECK_EQ(wg_set_log_level(WG_LOG_DEBUG), WG_OK);
  unset();
}

/* In the options: also what is logged before wg_turn_on_with() returns. */
static void the_first_line_is_not_lost(void) {
  int gone = 0, pair[2];
  wg_options_t options = WG_OPTIONS_INIT;
  struct sink *sink = new_sink(&gone);
  int32_t handle;
  CHECK_EQ(wg_set_log_level(WG_LOG_OFF), WG_OK);
  make_pair(SOCK_DGRAM, pair);
  options.tun_fd = pair[0];
  options.log = takes_lines;
  options.log_user = sink;
  options.log_destroy = destroyed;
  options.log_level = WG_LOG_DEBUG;
  handle = wg_turn_on_with(&options, "private_key=" PRIVATE_A "\n");
  CHECK(handle > 0);
  CHECK(lines(sink) > 0);
  CHECK_EQ(sink->last_handle, handle);
  CHECK_TEXT(sink->last, "the interface is up");
  CHECK_EQ(wg_turn_off(handle), WG_OK);
  CHECK_EQ(gone, 1);
  /* What fails gives the pointer up as well, and so does a function that is NULL. */
  options.tun_fd = pair[1];
  options.log_user = new_sink(&gone);
  options.log_level = 6;
  CHECK_FAILS(wg_turn_on_with(&options, ""), WG_ERR_INVALID, "log level 6");
  CHECK_EQ(gone, 2);
  options.log_level = WG_LOG_INHERIT;
  options.flags = 2;
  options.log_user = new_sink(&gone);
  CHECK_FAILS(wg_turn_on_with(&options, ""), WG_ERR_INVALID, "flags is 0x2");
  CHECK_EQ(gone, 3);
  options.flags = 0;
  options.log = NULL;
  options.log_user = new_sink(&gone);
  handle = wg_turn_on_with(&options, "");
  CHECK(handle > 0);
  CHECK_EQ(wg_turn_off(handle), WG_OK);
  CHECK_EQ(gone, 4);
  CHECK_EQ(wg_set_log_level(WG_LOG_DEBUG), WG_OK);
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
  __sync_fetch_and_add(&stop, 1);
  for (i = 0; i < 4; i++) join(loggers[i]);
}

int main(void) {
  int fds = open_fds(), tasks = threads();
  lines_say_whose_they_are();
  levels_are_kept();
  the_end_of_a_tunnel_is_logged();
  each_pointer_is_destroyed_once();
  a_tunnel_may_have_a_log_of_its_own();
  a_tunnel_may_have_a_level_of_its_own();
  the_first_line_is_not_lost();
  removal_waits_for_what_is_running();
  callbacks_change_while_many_threads_log();
  CHECK_EQ(open_fds(), fds);
  check_threads(tasks);
  return 0;
}
