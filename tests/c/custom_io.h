/* Two tunnels without a device and without sockets: what the tests of wg_tun_callbacks_t and wg_transport_t have in
 * common. */
#ifndef CUSTOM_IO_H
#define CUSTOM_IO_H

#include "check.h"

#define PORT 51820

/* One tunnel of a pair, as the app sees it: number 1 or 2 is 192.0.2.n outside and 10.9.0.n inside. */
struct node {
  int number;
  int32_t handle;
  struct node *other;
  pthread_mutex_t lock; /* guards what follows; callbacks are called on several threads */
  pthread_cond_t changed;
  int32_t called_as; /* the handle that callbacks were given */
  int writes, packets, sends, datagrams, rooms, destroyed, inside, off;
  size_t largest_write, largest_send, largest_datagram;
  wg_endpoint_t last_peer; /* that a datagram was sent to */
  /* What else its callbacks do, without the lock held; may be NULL. */
  void (*on_write)(struct node *, const wg_packet_t *, size_t);
  size_t (*on_send)(struct node *, const wg_datagram_t *, size_t);
  void *test;
};

static inline void enter(struct node *node, int32_t handle) {
  pthread_mutex_lock(&node->lock);
  CHECK(!node->off && !node->destroyed);
  CHECK(handle > 0 && (node->called_as == 0 || node->called_as == handle));
  if (node->called_as == 0) node->called_as = handle;
  node->inside++;
  pthread_cond_broadcast(&node->changed);
}

static inline void leave(struct node *node) {
  CHECK(!node->off);
  node->inside--;
  pthread_cond_broadcast(&node->changed);
  pthread_mutex_unlock(&node->lock);
}

static inline wg_endpoint_t endpoint_of(int number) {
  wg_endpoint_t endpoint = {WG_IPV4, PORT, 0, {192, 0, 2}, {0}, 0};
  endpoint.address[3] = (uint8_t)number;
  return endpoint;
}

/* A datagram that came from `peer`. */
static inline wg_datagram_t datagram_from(wg_endpoint_t *peer, void *data, size_t len) {
  wg_datagram_t datagram = {data, len, len, peer, (uint32_t)len, 0, 0, 0};
  return datagram;
}

/* Brings datagrams of one node to the other, as a network without loss does. Returns how many that took. */
static inline size_t carry(struct node *from, const wg_datagram_t *datagrams, size_t count) {
  wg_datagram_t arriving[WG_BATCH_SIZE];
  wg_endpoint_t peers[WG_BATCH_SIZE];
  size_t i, taken = 0;
  for (i = 0; i < count; i++) {
    wg_endpoint_t to = endpoint_of(from->other->number);
    /* It knows us by the address that it has sent to, if it has. */
    CHECK_EQ(memcmp(datagrams[i].peer, &to, offsetof(wg_endpoint_t, source)), 0);
    arriving[i] = datagrams[i];
    peers[i] = endpoint_of(from->number);
    memcpy(peers[i].source, to.address, sizeof to.address);
    arriving[i].peer = &peers[i];
  }
  if (from->other->handle > 0 && wg_transport_receive(from->other->handle, arriving, count, &taken) != WG_OK) taken = 0;
  return taken;
}

static size_t node_write(void *user, int32_t handle, const wg_packet_t *packets, size_t count) {
  struct node *node = user;
  CHECK(count >= 1 && count <= WG_BATCH_SIZE);
  enter(node, handle);
  node->writes++;
  pthread_mutex_unlock(&node->lock);
  if (node->on_write) node->on_write(node, packets, count);
  pthread_mutex_lock(&node->lock);
  node->packets += (int)count;
  if (count > node->largest_write) node->largest_write = count;
  leave(node);
  return count;
}

static void node_room(void *user, int32_t handle) {
  struct node *node = user;
  enter(node, handle);
  node->rooms++;
  leave(node);
}

static size_t node_send(void *user, int32_t handle, const wg_datagram_t *datagrams, size_t count) {
  struct node *node = user;
  size_t i, sent;
  CHECK(count >= 1 && count <= WG_BATCH_SIZE);
  enter(node, handle);
  node->sends++;
  node->datagrams += (int)count;
  if (count > node->largest_send) node->largest_send = count;
  for (i = 0; i < count; i++) {
    CHECK(datagrams[i].len >= 32 && datagrams[i].tos < 256);
    CHECK(datagrams[i].capacity == 0 && datagrams[i].full_len == 0 && datagrams[i].segment_size == 0 && datagrams[i].flags == 0);
    if (datagrams[i].len > node->largest_datagram) node->largest_datagram = datagrams[i].len;
  }
  node->last_peer = *datagrams[count - 1].peer;
  pthread_mutex_unlock(&node->lock);
  sent = node->on_send ? node->on_send(node, datagrams, count) : carry(node, datagrams, count);
  pthread_mutex_lock(&node->lock);
  leave(node);
  return sent;
}

static void node_destroyed(void *user) {
  struct node *node = user;
  pthread_mutex_lock(&node->lock);
  CHECK_EQ(node->inside, 0);
  node->destroyed++;
  pthread_mutex_unlock(&node->lock);
}

static inline void init_node(struct node *node, int number) {
  memset(node, 0, sizeof *node);
  node->number = number;
  pthread_mutex_init(&node->lock, NULL);
  pthread_cond_init(&node->changed, NULL);
}

/* Turns a node's tunnel on. Each of its two ends has the node as its `user`. */
static inline int32_t turn_node_on(struct node *node, const char *uapi) {
  wg_tun_callbacks_t tun = WG_TUN_CALLBACKS_INIT;
  wg_transport_t transport = WG_TRANSPORT_INIT;
  wg_options_t options = WG_OPTIONS_INIT;
  tun.write = node_write;
  tun.room = node_room;
  tun.user = transport.user = node;
  tun.destroy = transport.destroy = node_destroyed;
  transport.send = node_send;
  options.tun = &tun;
  options.transport = &transport;
  return wg_turn_on_with(&options, uapi);
}

static inline void turn_node_off(struct node *node) {
  CHECK_EQ(wg_turn_off(node->handle), WG_OK);
  pthread_mutex_lock(&node->lock);
  CHECK_EQ(node->destroyed, 2);
  CHECK(node->called_as == 0 || node->called_as == node->handle);
  node->off = 1;
  pthread_mutex_unlock(&node->lock);
}

/* The lines that make a node know the other. */
static inline const char *peer_of(const struct node *node, char *text, size_t size, const char *more) {
  snprintf(text, size, "public_key=%s\npreshared_key=%s\nendpoint=192.0.2.%d:%d\nallowed_ip=10.9.0.%d/32\n%s",
           node->number == 1 ? PUBLIC_B : PUBLIC_A, PSK, 3 - node->number, PORT, 3 - node->number, more);
  return text;
}

/* Two tunnels that know each other. `on_send` of both is to be set before, or may be NULL. */
static inline void turn_nodes_on(struct node *a, struct node *b) {
  char text[512];
  a->other = b;
  b->other = a;
  CHECK((a->handle = turn_node_on(a, "private_key=" PRIVATE_A "\n")) > 0);
  CHECK((b->handle = turn_node_on(b, "private_key=" PRIVATE_B "\n")) > 0);
  CHECK_EQ(wg_set_config(a->handle, peer_of(a, text, sizeof text, "")), WG_OK);
  CHECK_EQ(wg_set_config(b->handle, peer_of(b, text, sizeof text, "")), WG_OK);
}

/* Waits until `*counter`, one of the node's, is at least `least`. */
static inline void wait_for(struct node *node, const int *counter, int least) {
  struct timespec end;
  clock_gettime(CLOCK_REALTIME, &end);
  end.tv_sec += 60;
  pthread_mutex_lock(&node->lock);
  while (*counter < least) CHECK_EQ(pthread_cond_timedwait(&node->changed, &node->lock, &end), 0);
  pthread_mutex_unlock(&node->lock);
}

/* Injects `count` equal packets for the other node, and returns how many were taken. */
static inline size_t inject_equal(struct node *node, int len, size_t count) {
  unsigned char bytes[1500];
  wg_packet_t *packets = malloc((count + 1) * sizeof *packets);
  size_t i, taken = SIZE_MAX;
  CHECK(packets != NULL);
  make_packet(bytes, len, node->number, 3 - node->number, 0);
  for (i = 0; i < count; i++) {
    packets[i].data = bytes;
    packets[i].len = (size_t)len;
  }
  CHECK_EQ(wg_tun_inject(node->handle, packets, count, &taken), WG_OK);
  free(packets);
  CHECK(taken <= count);
  return taken;
}

#endif
