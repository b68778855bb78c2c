/*
 * Networks on and off, with connections of every kind in them: descriptors, threads and memory are afterwards what they
 * were.
 *
 *     net_cycles [CYCLES [CONNECTIONS]]
 *
 * Each cycle has CONNECTIONS connections, one after the other; some of them are left to the end of the tunnels.
 */
#include "net.h"

#include "heap.h"

static struct nets nets;

static int given, destroyed;

static void counts(void *user) { __sync_fetch_and_add((int *)user, 1); }

static uint32_t holds(void *user, int32_t handle, const wg_net_connection_t *connection) {
  (void)user, (void)handle;
  return connection->local.port % 3 == 0 ? WG_NET_HOLD : WG_NET_ACCEPT;
}

static void intercept(int32_t *listener) {
  wg_net_intercept_t options = WG_NET_INTERCEPT_INIT;
  options.dialled = holds;
  options.user = &destroyed;
  options.destroy = counts;
  given++;
  CHECK_EQ(wg_net_intercept(nets.b, &options, listener), WG_OK);
}

/* Dialled and accepted, and ended in one of several ways. */
static void one_connection(int i, int listener, int flows) {
  int is_tcp = i % 4 != 0, client = dial(nets.a, is_tcp ? "tcp" : "udp", "10.9.0.2:80"), server;
  if (!is_tcp) CHECK_EQ(send(client, "first", 5, 0), 5);
  server = accept_from(nets.b, is_tcp ? listener : flows, NULL);
  if (is_tcp && i % 3 == 0) check_sent(client, server, "there");
  if (i % 5 == 0) CHECK_EQ(wg_net_reset(nets.b, server), WG_OK);
  if (is_tcp && i % 7 == 0) CHECK_EQ(shutdown(client, SHUT_WR), 0);
  if (is_tcp && i % 2 == 0) (void)send(server, "unread", 6, MSG_NOSIGNAL);
  close(i % 2 ? client : server);
  close(i % 2 ? server : client);
}

static void one_cycle(int number, int connections) {
  char target[64];
  int listener, flows, left[4], i, fds = open_fds(), tasks = threads();
  int32_t intercepted, fd = -1;
  nets = turn_nets_on();
  listener = listen_at(nets.b, "tcp", ":80");
  flows = listen_at(nets.b, "udp", ":80");
  for (i = 0; i < connections; i++) one_connection(number + i, listener, flows);
  CHECK_EQ(wg_net_dial(nets.a, "tcp", "10.9.0.2:7", LONG, &fd), WG_ERR_REFUSED);
  intercept(&intercepted);
  snprintf(target, sizeof target, "192.0.2.1:%d", 1000 + number);
  left[0] = dial(nets.a, "udp", target);
  CHECK_EQ(send(left[0], "x", 1, 0), 1);
  left[1] = dial(nets.a, "tcp", "10.9.0.2:80"); /* nobody accepts it */
  write_all(left[1], "unread", 6);
  left[2] = dial(nets.a, "tcp", "192.0.2.1:1");
  left[3] = accept_from(nets.b, intercepted, NULL);
  check_sent(left[2], left[3], "x");
  CHECK(wg_net_dial(nets.a, "tcp", "192.0.2.1:3", 1, &fd) < 0);
  CHECK_EQ(wg_net_ping(nets.a, "10.9.0.2", 10, LONG, NULL), WG_OK);
  CHECK(wg_net_socks5(nets.a, NULL, NULL, NULL, 0, NULL) > 0);
  CHECK(wg_net_http(nets.a, NULL, "me", "secret", 0, NULL) > 0);
  if (number % 2) CHECK_EQ(wg_net_stop_proxy(nets.a, 1), WG_OK);
  turn_nets_off(nets);
  for (i = 0; i < 4; i++) close(left[i]);
  close(intercepted);
  close(flows);
  close(listener);
  CHECK_EQ(open_fds(), fds);
  check_threads(tasks);
  CHECK_EQ(destroyed, given);
}

int main(int argc, char **argv) {
  int cycles = argc > 1 ? atoi(argv[1]) : 12, connections = argc > 2 ? atoi(argv[2]) : 100, warm = cycles / 3, i;
  struct memory before = {0, 0}, after;
  CHECK(cycles >= 3);
  without_caches(argv);
  for (i = 0; i < cycles; i++) {
    alarm(200); /* Whatever hangs, fails. */
    if (i == warm) before = memory();
    one_cycle(i, connections);
  }
  after = memory();
  printf("%d cycles of %d connections; after %d and at the end: %zu and %zu bytes in use, %ld and %ld KiB resident\n",
         cycles, connections, warm, before.in_use, after.in_use, before.resident_kib, after.resident_kib);
  return is_lost(before, after);
}
