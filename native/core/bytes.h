/* Little-endian numbers of a file, wherever they lie, and its checksum. */
#ifndef BSK_BYTES_H
#define BSK_BYTES_H

#include <stdint.h>
#include <string.h>

static inline uint32_t u16(const uint8_t *at) { return (uint32_t)at[0] | (uint32_t)at[1] << 8; }
static inline uint32_t u32(const uint8_t *at) { return u16(at) | u16(at + 2) << 16; }
static inline int32_t i32(const uint8_t *at) {
  const uint32_t u = u32(at);
  return u <= INT32_MAX ? (int32_t)u : -(int32_t)(UINT32_MAX - u) - 1;
}
static inline int32_t i8(const uint8_t *at) { return *at < 128 ? *at : *at - 256; }
static inline float f32(const uint8_t *at) {
  const uint32_t u = u32(at);
  float f;
  memcpy(&f, &u, 4);
  return f;
}

static inline uint32_t crc32(const uint8_t *at, size_t n) { /* zlib's; four bits at a time */
  uint32_t table[16], crc = 0xffffffffu;
  for (uint32_t i = 0; i < 16; ++i) {
    table[i] = i;
    for (int bit = 0; bit < 4; ++bit) table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xedb88320u : 0);
  }
  for (size_t i = 0; i < 2 * n; ++i) {
    if (i % 2 == 0) crc ^= at[i / 2];
    crc = crc >> 4 ^ table[crc & 15];
  }
  return ~crc;
}

#endif
