/* Host names: who is asked, on which thread, what may come back, and changes of the network. */
#include "check.h"

/* An app's resolver. It knows one name, and may be slow, or wrong. */
struct book {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  int asked, answered, destroyed, running;
  int hold;           /* it does not answer while this is set */
  int32_t code;       /* what it returns */
  uint32_t family;    /* of its address */
  size_t count;       /* how many it says it has written */
  int32_t handle;     /* the tunnel, for calls from inside; 0 for none */
  char thread[32];
};

static void init(struct book *book) {
  memset(book, 0, sizeof *book);
  pthread_mutex_init(&book->lock, NULL);
  pthread_cond_init(&book->changed, NULL);
  book->family = WG_IPV4;
  book->count = 1;
}

static void set(struct book *book, int *field, int value) {
  pthread_mutex_lock(&book->lock);
  *field = value;
  pthread_cond_broadcast(&book->changed);
  pthread_mutex_unlock(&book->lock);
}

static int read_of(struct book *book, int *field) {
  int value;
  pthread_mutex_lock(&book->lock);
  value = *field;
  pthread_mutex_unlock(&book->lock);
  return value;
}

/* Waits until the number is at least so large. */
static void wait_for(struct book *book, int *field, int value) {
  int i;
  for (i = 0; i < TRIES && read_of(book, field) < value; i++) sleep_ms(2);
  CHECK(read_of(book, field) >= value);
}

static void destroy(void *user) {
  struct book *book = user;
  CHECK_EQ(read_of(book, &book->running), 0);
  set(book, &book->destroyed, read_of(book, &book->destroyed) + 1);
}

static void calls_from_inside(int32_t handle) {
  wg_options_t options = WG_OPTIONS_INIT;
  struct book other;
  wg_address_t address[4];
  size_t count = 0;
  char *text = NULL;
  int value = 0;
  init(&other);
  options.resolve = wg_resolve_system;
  options.resolve_user = &other;
  options.resolve_destroy = destroy;
  CHECK_FAILS(wg_network_changed(handle), WG_ERR_BUSY, "callback");
  CHECK_FAILS(wg_set_config(handle, ""), WG_ERR_BUSY, "callback");
  CHECK_FAILS(wg_get_config(handle, &text), WG_ERR_BUSY, "callback");
  CHECK_FAILS(wg_turn_off(handle), WG_ERR_BUSY, "callback");
  CHECK_FAILS(wg_turn_on_with(&options, ""), WG_ERR_BUSY, "callback");
  value = other.destroyed;
  CHECK_EQ(value, 1);
  CHECK_EQ(wg_resolve_system(NULL, "localhost", address, 4, &count), WG_OK);
  CHECK(count >= 1);
}

static int32_t resolve(void *user, const char *host, wg_address_t *addresses, size_t capacity, size_t *count) {
  struct book *book = user;
  FILE *comm;
  size_t i;
  int32_t code;
  if (strcmp(host, "ipv4only.arpa") == 0) return WG_ERR_NOT_FOUND;
  CHECK_EQ(strcmp(host, "b.example"), 0);
  CHECK_EQ(capacity, 16);
  CHECK_EQ(*count, 0);
  for (i = 0; i < capacity; i++) CHECK(addresses[i].family == 0 && addresses[i].bytes[15] == 0);
  if (book->handle != 0) calls_from_inside(book->handle);
  comm = fopen("/proc/thread-self/comm", "r");
  CHECK(comm != NULL && fgets(book->thread, sizeof book->thread, comm) != NULL);
  fclose(comm);
  pthread_mutex_lock(&book->lock);
  CHECK_EQ(book->running, 0);
  book->running = 1;
  book->asked++;
  while (book->hold) pthread_cond_wait(&book->changed, &book->lock);
  for (i = 0; i < capacity; i++) {
    addresses[i].family = book->family;
    memcpy(addresses[i].bytes, "\x7f\0\0\1", 4);
  }
  *count = book->count;
  code = book->code;
  book->answered++;
  book->running = 0;
  pthread_mutex_unlock(&book->lock);
  return code;
}

static char peer_text[512];

/* Makes the text of a peer at b.example, at the port of `b`. */
static const char *peer_of(struct end b) {
  snprintf(peer_text, sizeof peer_text,
           "public_key=%s\npreshared_key=%s\nendpoint=b.example:%d\nallowed_ip=10.9.0.2/32\n", PUBLIC_B, PSK,
           listen_port(b.handle));
  return peer_text;
}

static wg_options_t options_of(struct book *book, int fd) {
  wg_options_t options = WG_OPTIONS_INIT;
  options.tun_fd = fd;
  options.resolve = resolve;
  options.resolve_user = book;
  options.resolve_destroy = destroy;
  return options;
}

/* A tunnel with a resolver and a key. */
static struct end turn_on_named(struct book *book) {
  wg_options_t options;
  struct end end;
  int pair[2];
  make_pair(SOCK_DGRAM, pair);
  options = options_of(book, pair[0]);
  end.handle = wg_turn_on_with(&options, "private_key=" PRIVATE_A "\n");
  CHECK(end.handle > 0);
  end.app = pair[1];
  return end;
}

static int has_endpoint(struct end a, struct end b) {
  char line[64], *text = get(a.handle);
  int has;
  snprintf(line, sizeof line, "\nendpoint=127.0.0.1:%d\n", listen_port(b.handle));
  has = strstr(text, line) != NULL;
  CHECK(has || strstr(text, "endpoint") == NULL);
  CHECK(strstr(text, "b.example") == NULL);
  wg_free(text);
  return has;
}

static void wait_for_endpoint(struct end a, struct end b) {
  int i;
  for (i = 0; i < TRIES && !has_endpoint(a, b); i++) sleep_ms(2);
  CHECK(has_endpoint(a, b));
}

static void a_name_needs_a_resolver(void) {
  struct end a = turn_on(SOCK_DGRAM, "");
  int pair[2];
  make_pair(SOCK_DGRAM, pair);
  CHECK_FAILS(wg_turn_on(pair[0], "public_key=" PUBLIC_B "\nendpoint=b.example:1\n"), WG_ERR_INVALID, "line 2: endpoint");
  CHECK_FAILS(wg_set_config(a.handle, "public_key=" PUBLIC_B "\nendpoint=b.example:1\n"), WG_ERR_INVALID, "endpoint");
  close(pair[0]);
  close(pair[1]);
  turn_off(a);
}

static void packets_go_to_a_name(void) {
  struct book book;
  struct end a, b = turn_on(SOCK_DGRAM, "private_key=" PRIVATE_B "\n");
  int tasks = threads();
  init(&book);
  a = turn_on_named(&book);
  check_threads(tasks + 2);
  add_peer(b, PUBLIC_A, listen_port(a.handle), 1);
  CHECK_EQ(wg_set_config(a.handle, peer_of(b)), WG_OK);
  check_passes(a.app, b.app, 1, 2, 10);
  check_exchange(a, b);
  CHECK(has_endpoint(a, b));
  CHECK_EQ(strcmp(book.thread, "wg-resolver\n"), 0);
  check_threads(tasks + 2);
  CHECK_EQ(read_of(&book, &book.asked), 1);

  CHECK_EQ(wg_network_changed(a.handle), WG_OK);
  wait_for(&book, &book.answered, 2);
  check_exchange(a, b);
  CHECK_EQ(read_of(&book, &book.destroyed), 0);
  turn_off(a);
  CHECK_EQ(read_of(&book, &book.destroyed), 1);
  turn_off(b);
}

static void *turns_off(void *argument) {
  struct end *end = argument;
  turn_off(*end);
  return NULL;
}

static void nothing_waits_for_a_slow_resolver_but_the_end(void) {
  struct book book;
  struct end a, b = turn_on(SOCK_DGRAM, "private_key=" PRIVATE_B "\n");
  pthread_t thread;
  int tasks = threads();
  init(&book);
  book.hold = 1;
  a = turn_on_named(&book);
  book.handle = a.handle;
  add_peer(b, PUBLIC_A, listen_port(a.handle), 1);
  CHECK_EQ(wg_set_config(a.handle, peer_of(b)), WG_OK);
  wait_for(&book, &book.asked, 1);
  /* More to look up changes nothing. */
  CHECK_EQ(wg_set_config(a.handle, peer_of(b)), WG_OK);
  CHECK_EQ(wg_network_changed(a.handle), WG_OK);
  check_threads(tasks + 3);
  CHECK(!has_endpoint(a, b));
  set(&book, &book.hold, 0);
  check_passes(a.app, b.app, 1, 2, 10);
  check_threads(tasks + 2);
  CHECK_EQ(read_of(&book, &book.asked), 2);

  set(&book, &book.hold, 1);
  CHECK_EQ(wg_network_changed(a.handle), WG_OK);
  wait_for(&book, &book.asked, 3);
  start(&thread, turns_off, &a);
  sleep_ms(100);
  CHECK_EQ(read_of(&book, &book.destroyed), 0);
  set(&book, &book.hold, 0);
  join(thread);
  CHECK_EQ(read_of(&book, &book.destroyed), 1);
  CHECK_EQ(read_of(&book, &book.answered), 3);
  turn_off(b);
}

static void wrong_answers_are_none(void) {
  static const struct {
    int32_t code;
    uint32_t family;
    size_t count;
  } wrong[] = {{WG_ERR_IO, WG_IPV4, 1}, {1, WG_IPV4, 1},       {WG_OK, WG_IPV4, 0},       {WG_OK, 5, 1},
               {WG_OK, 0, 1},           {WG_OK, WG_IPV4, 17}, {WG_OK, WG_IPV4, SIZE_MAX}};
  struct book book;
  struct end a, b = turn_on(SOCK_DGRAM, "private_key=" PRIVATE_B "\n");
  size_t i;
  init(&book);
  a = turn_on_named(&book);
  for (i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
    pthread_mutex_lock(&book.lock);
    book.code = wrong[i].code;
    book.family = wrong[i].family;
    book.count = wrong[i].count;
    pthread_mutex_unlock(&book.lock);
    CHECK_EQ(wg_set_config(a.handle, peer_of(b)), WG_OK);
    wait_for(&book, &book.answered, (int)i + 1);
    sleep_ms(20);
    CHECK(!has_endpoint(a, b));
  }
  pthread_mutex_lock(&book.lock);
  book.code = WG_OK;
  book.family = WG_IPV4;
  book.count = 1;
  pthread_mutex_unlock(&book.lock);
  CHECK_EQ(wg_network_changed(a.handle), WG_OK);
  wait_for_endpoint(a, b);
  turn_off(a);
  turn_off(b);
}

static void what_belongs_to_it_is_given_up_once(void) {
  struct book book;
  wg_options_t options;
  int pair[2];
  make_pair(SOCK_DGRAM, pair);
  init(&book);
  options = options_of(&book, pair[0]);
  CHECK_FAILS(wg_turn_on_with(&options, "foo=1\n"), WG_ERR_INVALID, "foo");
  CHECK_EQ(book.destroyed, 1);
  CHECK_FAILS(wg_turn_on_with(&options, NULL), WG_ERR_NULL, "uapi");
  CHECK_EQ(book.destroyed, 2);
  options.fd_ownership = 7;
  CHECK_FAILS(wg_turn_on_with(&options, ""), WG_ERR_INVALID, "fd_ownership");
  CHECK_EQ(book.destroyed, 3);
  options = options_of(&book, -1);
  CHECK_FAILS(wg_turn_on_with(&options, ""), WG_ERR_INVALID, "descriptor -1");
  CHECK_EQ(book.destroyed, 4);
  options.resolve = NULL;
  CHECK_FAILS(wg_turn_on_with(&options, ""), WG_ERR_INVALID, "descriptor -1");
  CHECK_EQ(book.destroyed, 5);
  options.struct_size = 1;
  CHECK_FAILS(wg_turn_on_with(&options, ""), WG_ERR_INVALID, "struct_size");
  CHECK_EQ(book.destroyed, 5);
  close(pair[0]);
  close(pair[1]);
}

static int is_loopback(wg_address_t address) {
  return address.family == WG_IPV4 ? address.bytes[0] == 127 : address.family == WG_IPV6 && address.bytes[15] == 1;
}

static void the_system_resolves(void) {
  wg_options_t options = WG_OPTIONS_INIT;
  wg_address_t all[16];
  size_t count = 99, i;
  struct end a;
  int pair[2], tries, found = 0;
  CHECK_EQ(wg_resolve_system(NULL, "localhost", all, 16, &count), WG_OK);
  CHECK(count >= 1 && count <= 16);
  for (i = 0; i < count; i++) CHECK(is_loopback(all[i]));
  CHECK_EQ(wg_resolve_system(NULL, "localhost", all, 1, &count), WG_OK);
  CHECK_EQ(count, 1);
  CHECK_EQ(wg_resolve_system(NULL, "localhost", all, 0, &count), WG_OK);
  CHECK_EQ(count, 0);
  CHECK_FAILS(wg_resolve_system(NULL, NULL, all, 16, &count), WG_ERR_NULL, "host");
  CHECK_FAILS(wg_resolve_system(NULL, "localhost", NULL, 16, &count), WG_ERR_NULL, "addresses");
  CHECK_FAILS(wg_resolve_system(NULL, "localhost", all, 16, NULL), WG_ERR_NULL, "count");
  CHECK_FAILS(wg_resolve_system(NULL, "\xff", all, 16, &count), WG_ERR_INVALID, "UTF-8");
  count = 99;
  CHECK(wg_resolve_system(NULL, "no such host", all, 16, &count) < 0);
  CHECK_EQ(count, 99);

  make_pair(SOCK_DGRAM, pair);
  options.tun_fd = pair[0];
  options.resolve = wg_resolve_system;
  a.handle = wg_turn_on_with(&options, "public_key=" PUBLIC_B "\nendpoint=localhost:7\n");
  a.app = pair[1];
  CHECK(a.handle > 0);
  for (tries = 0; tries < TRIES && !found; tries++) {
    char *text = get(a.handle);
    found = strstr(text, "\nendpoint=127.0.0.1:7\n") != NULL || strstr(text, "\nendpoint=[::1]:7\n") != NULL;
    wg_free(text);
    sleep_ms(2);
  }
  CHECK(found);
  turn_off(a);
}

int main(void) {
  int fds = open_fds(), tasks = threads();
  a_name_needs_a_resolver();
  packets_go_to_a_name();
  nothing_waits_for_a_slow_resolver_but_the_end();
  wrong_answers_are_none();
  what_belongs_to_it_is_given_up_once();
  the_system_resolves();
  CHECK_EQ(open_fds(), fds);
  check_threads(tasks);
  return 0;
}
