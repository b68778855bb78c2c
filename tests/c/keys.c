/* Keys: made, derived, and as text both ways. */
#include "check.h"
#include "no_randomness.h"

/* `bytes` is what `hex` says. */
static void check_key(const unsigned char *bytes, const char *hex) {
  char text[WG_KEY_HEX_LEN + 1];
  text[WG_KEY_HEX_LEN] = 'x';
  CHECK_EQ(wg_keys_to_hex(bytes, text), WG_OK);
  CHECK_EQ(strcmp(text, hex), 0);
  CHECK_EQ(text[WG_KEY_HEX_LEN], 'x');
}

static void pairs(void) {
  unsigned char private_key[WG_KEY_LEN], public_key[WG_KEY_LEN], preshared_key[WG_KEY_LEN], again[WG_KEY_LEN];
  CHECK_EQ(wg_keys_from_hex(PRIVATE_A, private_key), WG_OK);
  CHECK_EQ(wg_keys_derive_public(private_key, public_key), WG_OK);
  check_key(public_key, PUBLIC_A);
  CHECK_EQ(wg_keys_generate_private(private_key), WG_OK);
  CHECK((private_key[0] & 7) == 0 && (private_key[31] & 0xc0) == 0x40);
  CHECK_EQ(wg_keys_generate_private(again), WG_OK);
  CHECK(memcmp(private_key, again, WG_KEY_LEN) != 0);
  CHECK_EQ(wg_keys_generate_preshared(preshared_key), WG_OK);
  CHECK_EQ(wg_keys_generate_preshared(again), WG_OK);
  CHECK(memcmp(preshared_key, again, WG_KEY_LEN) != 0);
}

static void text(void) {
  static const char *const bad_hex[] = {"", "00", PUBLIC_A "0", PUBLIC_A "00", "g" PUBLIC_A, " " PUBLIC_A};
  static const char *const bad_base64[] = {"", "AAAA", "Mz\xff",
                                           "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
                                           "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB=",
                                           "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=="};
  unsigned char key[WG_KEY_LEN], again[WG_KEY_LEN];
  char base64[WG_KEY_BASE64_LEN + 1];
  size_t i;
  base64[WG_KEY_BASE64_LEN] = 'x';
  CHECK_EQ(wg_keys_from_hex(PUBLIC_A, key), WG_OK);
  CHECK_EQ(wg_keys_to_base64(key, base64), WG_OK);
  CHECK_EQ(strlen(base64), WG_KEY_BASE64_LEN - 1);
  CHECK_EQ(base64[WG_KEY_BASE64_LEN], 'x');
  CHECK_EQ(wg_keys_from_base64(base64, again), WG_OK);
  CHECK_EQ(memcmp(key, again, WG_KEY_LEN), 0);
  for (i = 0; i < sizeof bad_hex / sizeof bad_hex[0]; i++)
    CHECK_EQ(wg_keys_from_hex(bad_hex[i], again), WG_ERR_INVALID);
  for (i = 0; i < sizeof bad_base64 / sizeof bad_base64[0]; i++)
    CHECK_EQ(wg_keys_from_base64(bad_base64[i], again), WG_ERR_INVALID);
  CHECK_EQ(memcmp(key, again, WG_KEY_LEN), 0); /* not written on failure */

  CHECK_FAILS(wg_keys_from_hex(NULL, key), WG_ERR_NULL, "text is NULL");
  CHECK_EQ(wg_keys_from_hex(PUBLIC_A, NULL), WG_ERR_NULL);
  CHECK_EQ(wg_keys_from_base64(NULL, key), WG_ERR_NULL);
  CHECK_EQ(wg_keys_from_base64(base64, NULL), WG_ERR_NULL);
  CHECK_EQ(wg_keys_to_hex(NULL, base64), WG_ERR_NULL);
  CHECK_EQ(wg_keys_to_hex(key, NULL), WG_ERR_NULL);
  CHECK_EQ(wg_keys_to_base64(NULL, base64), WG_ERR_NULL);
  CHECK_EQ(wg_keys_to_base64(key, NULL), WG_ERR_NULL);
  CHECK_EQ(wg_keys_generate_private(NULL), WG_ERR_NULL);
  CHECK_EQ(wg_keys_generate_preshared(NULL), WG_ERR_NULL);
  CHECK_EQ(wg_keys_derive_public(NULL, key), WG_ERR_NULL);
  CHECK_EQ(wg_keys_derive_public(key, NULL), WG_ERR_NULL);
}

static void no_randomness(void) {
  unsigned char key[WG_KEY_LEN] = {0};
  static const unsigned char zeros[WG_KEY_LEN];
  if (!break_the_generator()) return;
  CHECK_FAILS(wg_keys_generate_private(key), WG_ERR_IO, "cannot generate a key");
  CHECK_FAILS(wg_keys_generate_preshared(key), WG_ERR_IO, "cannot generate a key");
  CHECK_EQ(memcmp(key, zeros, WG_KEY_LEN), 0);
}

int main(void) {
  pairs();
  text();
  no_randomness();
  return 0;
}
