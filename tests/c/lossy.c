/* Two tunnels over a transport of the app that loses every fifth datagram, doubles some and changes their order: all
   that was not lost arrives, once, and about in order. The random numbers are the same in every run. */
#include "custom_io.h"

enum {
  PACKETS = 4000, /* each way */
  LOST = 20,      /* per cent */
  DOUBLED = 5,    /* per cent */
  HELD = 15,      /* per cent: they come up to FARTHEST datagrams later */
  FARTHEST = 24,
  FIRST = 10, /* packets that wait for the handshake */
  MOST_UNDER_WAY = 64, /* before more are injected: no queue is ever full */
  SECONDS = 20 /* of which one handshake takes 5 */
};

/* A data message that was sent, and how many copies of it the network has delivered. */
struct message {
  int session;
  uint64_t counter;
  int copies;
};

struct held {
  int due;
  struct message *message;
  wg_datagram_t datagram;
  wg_endpoint_t peer;
  unsigned char bytes[1500];
};

/* The network from one node to the other. */
struct way {
  pthread_mutex_t lock;
  struct node *from;
  uint64_t seed;
  int sent, lost, doubled, later;
  uint32_t sessions[8];
  int session_count;
  struct message messages[PACKETS + 100];
  int message_count;
  struct held held[FARTHEST + 1];
  int held_count;
  int delivered; /* data messages of which a copy was delivered */
};

/* The packets that a node got. */
struct got {
  int seen[PACKETS];
  int highest, farthest;
};

static struct way ways[2];
static struct got got[2];

/* A number from 0 to 99 for each datagram of a way (splitmix64). */
static int dice(const struct way *way, int number, int throw) {
  uint64_t z = way->seed + (uint64_t)(number * 4 + throw) * UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return (int)((z ^ (z >> 31)) % 100);
}

/* Datagrams that arrive together. */
struct arrivals {
  wg_datagram_t datagrams[WG_BATCH_SIZE];
  struct message *messages[WG_BATCH_SIZE];
  size_t count;
};

static void arrive(struct way *way, struct arrivals *arrivals) {
  size_t i;
  if (arrivals->count == 0) return;
  /* Few are under way: the queue has room for all. */
  CHECK_EQ(carry(way->from, arrivals->datagrams, arrivals->count), arrivals->count);
  for (i = 0; i < arrivals->count; i++) {
    if (arrivals->messages[i] != NULL && arrivals->messages[i]->copies++ == 0) way->delivered++;
  }
  arrivals->count = 0;
}

static void deliver(struct way *way, struct arrivals *arrivals, const wg_datagram_t *datagram, struct message *message) {
  if (arrivals->count == WG_BATCH_SIZE) arrive(way, arrivals);
  arrivals->datagrams[arrivals->count] = *datagram;
  arrivals->messages[arrivals->count++] = message;
}

/* Delivers what was held back until now, or all of it. What it points to may be overwritten after `arrive`. */
static void deliver_held(struct way *way, struct arrivals *arrivals, int all) {
  static struct held gone[2][FARTHEST + 1];
  struct held *copies = gone[way - ways];
  int i, kept = 0, count = 0;
  for (i = 0; i < way->held_count; i++) {
    if (all || way->held[i].due <= way->sent) {
      copies[count] = way->held[i];
      copies[count].datagram.data = copies[count].bytes;
      copies[count].datagram.peer = &copies[count].peer;
      deliver(way, arrivals, &copies[count].datagram, copies[count].message);
      count++;
    } else {
      way->held[kept++] = way->held[i];
    }
  }
  way->held_count = kept;
  if (count > 0) arrive(way, arrivals);
}

/* Notes a message that carries a packet; NULL for all others. */
static struct message *note(struct way *way, const wg_datagram_t *datagram) {
  const unsigned char *data = datagram->data;
  struct message *message;
  uint32_t session;
  int i;
  if (data[0] != 4 || datagram->len == 32) return NULL;
  CHECK(way->message_count < (int)(sizeof way->messages / sizeof *message));
  message = &way->messages[way->message_count++];
  memcpy(&session, data + 4, 4);
  for (i = 0; i < way->session_count && way->sessions[i] != session; i++) continue;
  CHECK(i < 8);
  way->sessions[i] = session;
  if (i == way->session_count) way->session_count++;
  message->session = i;
  for (i = 7, message->counter = 0; i >= 0; i--) message->counter = message->counter << 8 | data[8 + i];
  return message;
}

static size_t lossy_send(struct node *node, const wg_datagram_t *datagrams, size_t count) {
  struct way *way = node->test;
  struct arrivals arrivals;
  size_t i;
  arrivals.count = 0;
  pthread_mutex_lock(&way->lock);
  for (i = 0; i < count; i++) {
    int number = way->sent++, roll = dice(way, number, 0);
    struct message *message = note(way, &datagrams[i]);
    /* The very first handshake message is lost in any case: it must be tried again. */
    if (roll < LOST || (node->number == 1 && number == 0)) {
      way->lost++;
    } else if (roll < LOST + HELD && way->held_count <= FARTHEST && message != NULL) {
      struct held *held = &way->held[way->held_count++];
      held->due = number + 1 + dice(way, number, 1) * FARTHEST / 100;
      held->message = message;
      held->datagram = datagrams[i];
      held->peer = *datagrams[i].peer;
      CHECK(datagrams[i].len <= sizeof held->bytes);
      memcpy(held->bytes, datagrams[i].data, datagrams[i].len);
      way->later++;
    } else {
      deliver(way, &arrivals, &datagrams[i], message);
      if (roll >= 100 - DOUBLED) {
        deliver(way, &arrivals, &datagrams[i], message);
        way->doubled++;
      }
    }
    deliver_held(way, &arrivals, 0);
  }
  arrive(way, &arrivals);
  pthread_mutex_unlock(&way->lock);
  return count;
}

static int length_of(int number) { return 24 + number * 37 % 1397; }

static void make_numbered(unsigned char *packet, int from, int to, int number) {
  make_packet(packet, length_of(number), from, to, number);
  memcpy(packet + 20, &number, 4);
}

static void takes_numbered(struct node *node, const wg_packet_t *packets, size_t count) {
  struct got *mine = &got[node->number - 1];
  unsigned char expected[1500];
  size_t i;
  for (i = 0; i < count; i++) {
    int number;
    CHECK(packets[i].len >= 24);
    memcpy(&number, packets[i].data + 20, 4);
    CHECK(number >= 0 && number < PACKETS);
    CHECK_EQ(packets[i].len, length_of(number));
    make_numbered(expected, 3 - node->number, node->number, number);
    CHECK_EQ(memcmp(packets[i].data, expected, packets[i].len), 0);
    CHECK_EQ(mine->seen[number]++, 0); /* none comes twice */
    if (number > mine->highest) mine->highest = number;
    if (mine->highest - number > mine->farthest) mine->farthest = mine->highest - number;
  }
}

/* How many of the packets that were injected are on their way: in one of the tunnels, but not lost or held back. */
static int under_way(struct way *way, int injected) {
  struct node *to = way->from->other;
  int messages, delivered, packets;
  pthread_mutex_lock(&way->lock);
  messages = way->message_count;
  delivered = way->delivered;
  pthread_mutex_unlock(&way->lock);
  pthread_mutex_lock(&to->lock);
  packets = to->packets;
  pthread_mutex_unlock(&to->lock);
  return injected - messages + delivered - packets;
}

static void *injects(void *argument) {
  struct way *way = argument;
  struct node *node = way->from;
  static unsigned char bytes[2][64][1500];
  wg_packet_t packets[64];
  int next = node->number == 1 ? FIRST : 0;
  while (next < PACKETS) {
    size_t count, taken;
    for (count = 0; count < 1 + (size_t)next % 64 && next + (int)count < PACKETS; count++) {
      make_numbered(bytes[node->number - 1][count], node->number, 3 - node->number, next + (int)count);
      packets[count].data = bytes[node->number - 1][count];
      packets[count].len = (size_t)length_of(next + (int)count);
    }
    while (under_way(way, next) > MOST_UNDER_WAY) sleep_ms(1);
    CHECK_EQ(wg_tun_inject(node->handle, packets, count, &taken), WG_OK);
    CHECK_EQ(taken, count);
    next += (int)count;
  }
  return NULL;
}

static int in_order(const void *a, const void *b) {
  const struct message *x = a, *y = b;
  if (x->session != y->session) return x->session < y->session ? -1 : 1;
  return x->counter < y->counter ? -1 : x->counter > y->counter;
}

/* Everything that was injected was sent; exactly what the network delivered came out. */
static void check_way(struct way *way) {
  struct got *theirs = &got[way->from->other->number - 1];
  int i, missing = 0;
  CHECK_EQ(way->message_count, PACKETS);
  qsort(way->messages, PACKETS, sizeof way->messages[0], in_order);
  for (i = 0; i < PACKETS; i++) {
    CHECK(i == 0 || in_order(&way->messages[i - 1], &way->messages[i]) < 0);
    CHECK_EQ(theirs->seen[i], way->messages[i].copies > 0);
    missing += !theirs->seen[i];
  }
  CHECK(missing > PACKETS * (LOST - 3) / 100 && missing < PACKETS * (LOST + 3) / 100);
  CHECK(way->doubled > PACKETS * (DOUBLED - 2) / 100 && way->later > PACKETS * (HELD - 3) / 100);
  CHECK(theirs->farthest > 8 && theirs->farthest <= FARTHEST);
}

int main(void) {
  struct node a, b;
  pthread_t threads[2];
  unsigned char bytes[1500];
  wg_packet_t packet = {bytes, 0};
  int i, complete;
  alarm(SECONDS);
  init_node(&a, 1);
  init_node(&b, 2);
  for (i = 0; i < 2; i++) {
    struct node *node = i == 0 ? &a : &b;
    pthread_mutex_init(&ways[i].lock, NULL);
    ways[i].from = node;
    ways[i].seed = 2024 + (uint64_t)i;
    got[i].highest = -1;
    node->test = &ways[i];
    node->on_send = lossy_send;
    node->on_write = takes_numbered;
  }
  turn_nodes_on(&a, &b);
  for (i = 0; i < FIRST; i++) {
    make_numbered(bytes, 1, 2, i);
    packet.len = (size_t)length_of(i);
    CHECK_EQ(wg_tun_inject(a.handle, &packet, 1, NULL), WG_OK);
  }
  wait_for(&b, &b.packets, 1);
  for (i = 0; i < 2; i++) start(&threads[i], injects, &ways[i]);
  for (i = 0; i < 2; i++) join(threads[i]);
  do {
    sleep_ms(5);
    for (i = 0, complete = 1; i < 2; i++) {
      struct arrivals arrivals;
      arrivals.count = 0;
      pthread_mutex_lock(&ways[i].lock);
      complete = complete && ways[i].message_count == PACKETS;
      if (ways[i].message_count == PACKETS) deliver_held(&ways[i], &arrivals, 1);
      pthread_mutex_unlock(&ways[i].lock);
      complete = complete && under_way(&ways[i], PACKETS) == 0;
    }
  } while (!complete);
  turn_node_off(&a);
  turn_node_off(&b);
  for (i = 0; i < 2; i++) check_way(&ways[i]);
  return 0;
}
