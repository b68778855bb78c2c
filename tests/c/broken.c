/* Faults that the sanitizers must find: tests/c/check.sh and tests/c/instrumented.sh check that they do. The library is
 * only in the last two, which break its documented requirements. */
#include "check.h"

static int shared;

static void *counts(void *argument) {
  int i;
  (void)argument;
  for (i = 0; i < 100000; i++) shared++;
  return NULL;
}

static uint8_t one_for_all[WG_KEY_LEN];

static void *makes_keys(void *argument) {
  int i;
  (void)argument;
  for (i = 0; i < 1000; i++) (void)wg_keys_generate_private(one_for_all);
  return NULL;
}

static void twice_at_once(void *(*body)(void *)) {
  pthread_t a, b;
  start(&a, body, NULL);
  start(&b, body, NULL);
  join(a);
  join(b);
}

int main(int argc, char **argv) {
  const char *fault = argc > 1 ? argv[1] : "";
  volatile int number = INT32_MAX - 2 + argc; /* the largest, with one argument */
  char *volatile memory = malloc(31);
  CHECK(memory != NULL);
  memset(memory, 7, 31);
  if (strcmp(fault, "none") == 0) {
    free(memory);
  } else if (strcmp(fault, "overflow") == 0) {
    memory[31] = 1;
  } else if (strcmp(fault, "freed") == 0) {
    free(memory);
    memory[0] = 1;
  } else if (strcmp(fault, "leak") == 0) {
    memory = NULL;
  } else if (strcmp(fault, "number") == 0) {
    number = number + argc;
    free(memory);
  } else if (strcmp(fault, "race") == 0) {
    twice_at_once(counts);
    free(memory);
  } else if (strcmp(fault, "short-key") == 0) { /* the library reads 32 bytes */
    char text[WG_KEY_HEX_LEN];
    (void)wg_keys_to_hex((const uint8_t *)memory, text);
    free(memory);
  } else if (strcmp(fault, "key-race") == 0) { /* the library writes to the same bytes on two threads */
    twice_at_once(makes_keys);
    free(memory);
  } else {
    fprintf(stderr, "which fault?\n");
    return 2;
  }
  return 0;
}
