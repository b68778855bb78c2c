/* A program over the library, to be linked for each of Apple's systems. */
#pragma clang module import CWgEmbed

int main(void) {
  int tunnel = wg_turn_on(-1, "");
  return tunnel > 0 || wg_turn_off(tunnel) != WG_ERR_UNKNOWN_HANDLE;
}
