/* Connections and datagrams to any address and port: decided by a function, by number later, and taken by a function
 * or from a descriptor. */
#include "net.h"

static struct nets nets;

/* What the functions of the app are called with; guarded by the lock. */
static struct app {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  uint32_t answer;
  int asked, taken, destroyed, fd;
  wg_net_connection_t last;
} app = {PTHREAD_MUTEX_INITIALIZER,
         PTHREAD_COND_INITIALIZER,
         WG_NET_ACCEPT,
         0,
         0,
         0,
         -1,
         {0, 0, 0, {0, 0, 0, {0}, {0}, 0}, {0, 0, 0, {0}, {0}, 0}}};

static uint32_t is_asked(void *user, int32_t handle, const wg_net_connection_t *connection) {
  uint32_t answer;
  CHECK(user == &app && handle == nets.b && connection->id > 0);
  CHECK_FAILS(wg_turn_off(handle), WG_ERR_BUSY, "inside a callback");
  CHECK_FAILS(wg_net_answer(handle, connection->id, WG_NET_ACCEPT), WG_ERR_BUSY, "inside a callback");
  pthread_mutex_lock(&app.lock);
  CHECK_EQ(app.destroyed, 0);
  CHECK(connection->id > app.last.id);
  app.asked++;
  app.last = *connection;
  answer = app.answer;
  pthread_cond_broadcast(&app.changed);
  pthread_mutex_unlock(&app.lock);
  return answer;
}

static void takes(void *user, int32_t handle, const wg_net_connection_t *connection, int32_t fd) {
  CHECK(user == &app && handle == nets.b && connection->id == 0);
  pthread_mutex_lock(&app.lock);
  CHECK_EQ(app.destroyed, 0);
  app.taken++;
  app.fd = checked(fd, connection->protocol == WG_NET_TCP ? SOCK_STREAM : SOCK_DGRAM);
  pthread_cond_broadcast(&app.changed);
  pthread_mutex_unlock(&app.lock);
}

static void is_destroyed(void *user) {
  CHECK(user == &app);
  pthread_mutex_lock(&app.lock);
  app.destroyed++;
  pthread_mutex_unlock(&app.lock);
}

static void set_answer(uint32_t answer) {
  pthread_mutex_lock(&app.lock);
  app.answer = answer;
  pthread_mutex_unlock(&app.lock);
}

/* Waits until `*counter` is `expected`, and returns what was asked about last. */
static wg_net_connection_t wait_for(const int *counter, int expected) {
  wg_net_connection_t last;
  pthread_mutex_lock(&app.lock);
  while (*counter < expected) pthread_cond_wait(&app.changed, &app.lock);
  CHECK_EQ(*counter, expected);
  last = app.last;
  pthread_mutex_unlock(&app.lock);
  return last;
}

static int take_fd(int expected) {
  int fd;
  wait_for(&app.taken, expected);
  pthread_mutex_lock(&app.lock);
  fd = app.fd;
  app.fd = -1;
  pthread_mutex_unlock(&app.lock);
  CHECK(fd >= 0);
  return fd;
}

/* What waits is taken from a descriptor. */
static void it_can_be_polled(void) {
  wg_net_intercept_t options = WG_NET_INTERCEPT_INIT;
  wg_net_connection_t connection;
  wg_endpoint_t endpoint;
  int32_t listener = -1, fd = -1, again = -1;
  int client, server, own = listen_at(nets.b, "tcp", ":90");
  CHECK_EQ(wg_net_intercept(nets.b, &options, &listener), WG_OK);
  CHECK(listener > 2 && !is_readable(listener));
  CHECK_FAILS(wg_net_local_address(nets.b, listener, &endpoint), WG_ERR_NOT_FOUND, "intercepting socket");
  client = dial(nets.a, "tcp", "192.0.2.80:443");
  wait_readable(listener);
  server = accept_from(nets.b, listener, &connection);
  CHECK_TEXT(text_of(&connection.local), "192.0.2.80:443");
  CHECK_TEXT(text_of(&connection.peer), local_of(nets.a, client));
  CHECK_TEXT(local_of(nets.b, server), "192.0.2.80:443");
  check_sent(client, server, "to any address");
  check_sent(server, client, "from any address");
  close(client);
  close(server);
  client = dial(nets.a, "tcp", "[2001:db8::5]:1");
  server = accept_from(nets.b, listener, &connection);
  CHECK_TEXT(text_of(&connection.local), "[2001:db8::5]:1");
  check_sent(client, server, "IPv6");
  close(client);
  close(server);
  client = dial(nets.a, "udp", "192.0.2.81:9");
  CHECK_EQ(send(client, "datagram", 8, 0), 8);
  server = accept_from(nets.b, listener, &connection);
  CHECK_EQ(connection.protocol, WG_NET_UDP);
  CHECK_TEXT(text_of(&connection.local), "192.0.2.81:9");
  check_sent(server, client, "back");
  close(client);
  close(server);
  /* What has a listener of its own is not intercepted. */
  client = dial(nets.a, "tcp", "10.9.0.2:90");
  wait_readable(own);
  CHECK(!is_readable(listener));
  close(client);
  /* Echo requests to any address are answered. */
  CHECK_EQ(wg_net_ping(nets.a, "192.0.2.82", 10, LONG, NULL), WG_OK);
  /* Another one takes its place. */
  options.backlog = 1;
  CHECK_EQ(wg_net_intercept(nets.b, &options, &again), WG_OK);
  CHECK_FAILS(wg_net_accept(nets.b, listener, LONG, &fd, NULL), WG_ERR_INVALID, "does not listen");
  check_end(listener);
  close(listener);
  /* Only as many wait as it says. */
  client = dial(nets.a, "tcp", "192.0.2.80:1");
  wait_readable(again);
  CHECK_FAILS(wg_net_dial(nets.a, "tcp", "192.0.2.80:2", LONG, &fd), WG_ERR_REFUSED, "192.0.2.80:2");
  /* Without anyone to take them, they are refused. */
  close(again);
  CHECK_FAILS(wg_net_dial(nets.a, "tcp", "192.0.2.80:3", LONG, &fd), WG_ERR_REFUSED, "192.0.2.80:3");
  CHECK_EQ(wg_net_intercept(nets.b, NULL, NULL), WG_OK);
  check_reset(client);
  close(client);
  close(own);
  CHECK_EQ(fd, -1);
}

static void *dials(void *argument) {
  int32_t *fd = argument;
  CHECK_EQ(wg_net_dial(nets.a, "tcp", "192.0.2.80:80", LONG, fd), WG_OK);
  return NULL;
}

static void functions_decide_and_take(void) {
  wg_net_intercept_t options = WG_NET_INTERCEPT_INIT;
  wg_net_connection_t last;
  int32_t fd = -1, held = -1;
  pthread_t thread;
  int client, server, expected;
  options.dialled = is_asked;
  options.connected = takes;
  options.user = &app;
  options.destroy = is_destroyed;
  CHECK_EQ(wg_net_intercept(nets.b, &options, NULL), WG_OK);
  client = dial(nets.a, "tcp", "192.0.2.80:80");
  last = wait_for(&app.asked, 1);
  CHECK_TEXT(text_of(&last.local), "192.0.2.80:80");
  CHECK_EQ(last.protocol, WG_NET_TCP);
  server = take_fd(1);
  check_sent(client, server, "accepted");
  close(client);
  close(server);

  set_answer(WG_NET_REFUSE);
  CHECK_FAILS(wg_net_dial(nets.a, "tcp", "192.0.2.80:80", LONG, &fd), WG_ERR_REFUSED, "192.0.2.80:80");
  set_answer(12345);
  CHECK_FAILS(wg_net_dial(nets.a, "tcp", "192.0.2.80:80", LONG, &fd), WG_ERR_REFUSED, "192.0.2.80:80");
  set_answer(WG_NET_IGNORE);
  CHECK_FAILS(wg_net_dial(nets.a, "tcp", "192.0.2.80:80", 50, &fd), WG_ERR_TIMED_OUT, "192.0.2.80:80");
  CHECK_EQ(app.taken, 1);

  /* The handshake is held back until there is an answer. */
  set_answer(WG_NET_HOLD);
  expected = app.asked + 1;
  start(&thread, dials, &held);
  last = wait_for(&app.asked, expected);
  CHECK_EQ(wg_net_answer(nets.b, last.id, WG_NET_ACCEPT), WG_OK);
  CHECK_FAILS(wg_net_answer(nets.b, last.id, WG_NET_ACCEPT), WG_ERR_NOT_FOUND, "waits for an answer");
  join(thread);
  server = take_fd(2);
  check_sent(held, server, "accepted later");
  close(held);
  close(server);

  /* Datagrams too, and nothing of them is lost. */
  client = dial(nets.a, "udp", "192.0.2.80:99");
  CHECK_EQ(send(client, "one", 3, 0), 3);
  pthread_mutex_lock(&app.lock);
  while (app.last.protocol != WG_NET_UDP) pthread_cond_wait(&app.changed, &app.lock);
  last = app.last;
  pthread_mutex_unlock(&app.lock);
  CHECK_FAILS(wg_net_answer(nets.b, last.id, WG_NET_HOLD), WG_ERR_INVALID, "the answer is 3");
  CHECK_EQ(wg_net_answer(nets.b, last.id, WG_NET_ACCEPT), WG_OK);
  server = take_fd(3);
  wait_readable(server);
  {
    char got[16];
    CHECK_EQ(recv(server, got, sizeof got, 0), 3);
  }
  check_sent(server, client, "two");
  close(client);
  close(server);

  CHECK_EQ(app.destroyed, 0);
  CHECK_EQ(wg_net_intercept(nets.b, NULL, NULL), WG_OK);
  CHECK_EQ(app.destroyed, 1);
  CHECK_FAILS(wg_net_answer(nets.b, last.id, WG_NET_ACCEPT), WG_ERR_NOT_FOUND, "waits for an answer");
  CHECK_FAILS(wg_net_dial(nets.a, "tcp", "10.9.0.2:80", LONG, &fd), WG_ERR_REFUSED, "10.9.0.2:80");
  CHECK_FAILS(wg_net_dial(nets.a, "tcp", "192.0.2.80:80", 30, &fd), WG_ERR_TIMED_OUT, "192.0.2.80:80");
  CHECK_EQ(fd, -1);
}

/* Handshakes of more connections may be complete than there is room for. */
static void what_is_beyond_the_backlog_is_reset(void) {
  wg_net_intercept_t options = WG_NET_INTERCEPT_INIT;
  struct pollfd clients[2] = {{-1, POLLIN, 0}, {-1, POLLIN, 0}};
  wg_net_connection_t last;
  int32_t listener = -1;
  pthread_t threads[2];
  int expected = app.asked + 2, before = app.destroyed, i, reset, server;
  app.destroyed = 0;
  options.dialled = is_asked;
  options.user = &app;
  options.backlog = 1;
  set_answer(WG_NET_HOLD);
  CHECK_EQ(wg_net_intercept(nets.b, &options, &listener), WG_OK);
  for (i = 0; i < 2; i++) start(&threads[i], dials, &clients[i].fd);
  last = wait_for(&app.asked, expected);
  /* So that neither handshake continues before both were accepted. */
  CHECK_EQ(wg_pause(nets.a), WG_OK);
  for (i = 0; i < 2; i++) CHECK_EQ(wg_net_answer(nets.b, last.id - (uint64_t)i, WG_NET_ACCEPT), WG_OK);
  CHECK_EQ(wg_resume(nets.a), WG_OK);
  for (i = 0; i < 2; i++) join(threads[i]);
  CHECK_EQ(poll(clients, 2, LONG), 1);
  reset = clients[0].revents ? 0 : 1;
  check_reset(clients[reset].fd);
  server = accept_from(nets.b, listener, NULL);
  check_sent(clients[!reset].fd, server, "the one that there is room for");
  for (i = 0; i < 2; i++) close(clients[i].fd);
  close(server);
  close(listener);
  CHECK_EQ(wg_net_intercept(nets.b, NULL, NULL), WG_OK);
  app.destroyed = before;
}

static void bad_options_are_refused_and_given_up(void) {
  wg_net_intercept_t options = WG_NET_INTERCEPT_INIT;
  int32_t listener = -1;
  int before = app.destroyed;
  options.destroy = is_destroyed;
  options.user = &app;
  CHECK_FAILS(wg_net_intercept(nets.b, &options, NULL), WG_ERR_NULL, "listener is NULL");
  CHECK_EQ(app.destroyed, ++before);
  options.flags = 2;
  CHECK_FAILS(wg_net_intercept(nets.b, &options, &listener), WG_ERR_INVALID, "flags is 0x2");
  CHECK_EQ(app.destroyed, ++before);
  options.flags = 0;
  options.reserved = 1;
  CHECK_FAILS(wg_net_intercept(nets.b, &options, &listener), WG_ERR_INVALID, "reserved is not 0");
  CHECK_EQ(app.destroyed, ++before);
  options.reserved = 0;
  CHECK_FAILS(wg_net_intercept(-1, &options, &listener), WG_ERR_UNKNOWN_HANDLE, "handle -1");
  CHECK_EQ(app.destroyed, ++before);
  options.struct_size--;
  CHECK_FAILS(wg_net_intercept(nets.b, &options, &listener), WG_ERR_INVALID, "struct_size is");
  CHECK_EQ(app.destroyed, before);
  CHECK_EQ(listener, -1);
}

/* Functions that are there when the tunnel is turned off are given up then. */
static void it_ends_with_the_tunnel(void) {
  wg_net_intercept_t options = WG_NET_INTERCEPT_INIT;
  int before = app.destroyed, client;
  app.destroyed = 0;
  app.asked = 0;
  options.dialled = is_asked;
  options.connected = takes;
  options.user = &app;
  options.destroy = is_destroyed;
  set_answer(WG_NET_HOLD);
  CHECK_EQ(wg_net_intercept(nets.b, &options, NULL), WG_OK);
  client = dial(nets.a, "udp", "192.0.2.80:97");
  CHECK_EQ(send(client, "held", 4, 0), 4);
  wait_for(&app.asked, 1);
  CHECK_EQ(wg_turn_off(nets.b), WG_OK);
  CHECK_EQ(app.destroyed, 1);
  app.destroyed += before;
  close(client);
  CHECK_EQ(wg_turn_off(nets.a), WG_OK);
}

int main(void) {
  int fds = open_fds(), tasks = threads();
  nets = turn_nets_on();
  it_can_be_polled();
  functions_decide_and_take();
  what_is_beyond_the_backlog_is_reset();
  bad_options_are_refused_and_given_up();
  it_ends_with_the_tunnel();
  CHECK_EQ(open_fds(), fds);
  check_threads(tasks);
  return 0;
}
