/* Mutants of packed files with a right checksum: `mutants ROUNDS SEED FILE...`. Each is opened, and what bsk_open lets through
 * is made ready and run once; built with sanitizers, whatever reads or writes outside its memory ends the program.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bitskip.h"

#define LARGEST_RUN (1u << 20) /* bytes of arena and picture of a mutant that is run */
#define LARGEST_WORK ((int64_t)1 << 22)

static uint64_t state = 88172645463325252ull;
static uint32_t next(void) {
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return (uint32_t)(state >> 16);
}
static size_t below(size_t n) { return n ? (size_t)next() % n : 0; }

static uint32_t crc32(const uint8_t *at, size_t n) {
  static uint32_t table[256];
  uint32_t crc = 0xffffffffu;
  for (uint32_t i = 0; i < 256 && !table[255]; ++i) {
    uint32_t c = i;
    for (int bit = 0; bit < 8; ++bit) c = c >> 1 ^ (c & 1 ? 0xedb88320u : 0);
    table[i] = c;
  }
  for (size_t i = 0; i < n; ++i) crc = crc >> 8 ^ table[(crc ^ at[i]) & 255];
  return ~crc;
}

static void put(uint8_t *at, size_t bytes, uint32_t value) {
  for (size_t i = 0; i < bytes; ++i) at[i] = (uint8_t)(value >> 8 * i);
}

static void change(uint8_t *at, size_t bytes) {
  static const uint32_t edges[] = {0,   1,      2,     3,     7,        8,          63,          64,          127,        128,        255,
                                   256, 0xffff, 65536, 65537, 1u << 20, 0x7fffffff, 0x80000000u, 0xffffffffu, 0x7f800000, 0xffffffc0u};
  uint32_t old = 0;
  for (size_t i = 0; i < bytes; ++i) old |= (uint32_t)at[i] << 8 * i;
  const uint32_t choices[] = {
      old + 1, old - 1, old * 2, old + 64, old ^ 1, next(), edges[below(sizeof edges / sizeof edges[0])], edges[below(sizeof edges / sizeof edges[0])]};
  put(at, bytes, choices[below(8)]);
}

/* One field of one row of a table, or one row for another. */
static void change_row(uint8_t *table, size_t row_bytes, size_t rows) {
  uint8_t *row = table + row_bytes * below(rows), *other = table + row_bytes * below(rows);
  const size_t bytes = (size_t)1 << below(3), at = below(row_bytes / bytes) * bytes;
  switch (below(8)) {
    case 0:
      memmove(row, other, row_bytes);
      break;
    case 1:
    case 2:
      memmove(row + at, other + at, bytes);
      break;
    default:
      change(row + at, bytes);
  }
}

/* Whether the engine takes it is its own affair (a machine may lack memory); that it does so safely is the test. */
static int run(const bsk_program *p) {
  static bsk_op ops[BSK_MAX_OPS];
  int64_t work = 0;
  for (uint32_t i = 0; i < p->n_ops; ++i) {
    bsk_program_op(p, i, &ops[i]);
    const bsk_tensor *out = ops[i].out_f32.offset != BSK_AT_NONE ? &ops[i].out_f32 : ops[i].out_bits.offset != BSK_AT_NONE ? &ops[i].out_bits : &ops[i].out_i8;
    const int64_t taps = ops[i].kind == BSK_OP_CONV ? (int64_t)ops[i].kh * ops[i].kw * ops[i].in.c : ops[i].kh ? (int64_t)ops[i].kh * ops[i].kw : 1;
    work += (int64_t)out->h * out->w * out->c * taps;
    if (work > LARGEST_WORK) return 0;
  }
  const size_t picture = bsk_program_image_bytes(p);
  bsk_sizes sizes;
  bsk_engine *engine;
  if (picture + p->arena_bytes > LARGEST_RUN || bsk_engine_bytes(ops, p->n_ops, p->arena_bytes, BSK_ISA_BEST, &sizes) != BSK_OK) return 0;
  if (sizes.engine_bytes > 64 * LARGEST_RUN || sizes.scratch_bytes > 64 * LARGEST_RUN) return 0;
  void *memory = aligned_alloc(64, (sizes.engine_bytes + 63) / 64 * 64), *scratch = aligned_alloc(64, (sizes.scratch_bytes + 63) / 64 * 64);
  void *arena = aligned_alloc(64, (sizes.arena_bytes + 127) / 64 * 64);
  uint8_t *image = (uint8_t *)malloc(picture);
  int done = 0;
  if (memory && scratch && arena && image && bsk_engine_init(ops, p->n_ops, p->arena_bytes, BSK_ISA_BEST, memory, sizes.engine_bytes, &engine) == BSK_OK) {
    memset(arena, 0x5a, sizes.arena_bytes);
    for (size_t i = 0; i < picture; ++i) image[i] = (uint8_t)next();
    bsk_engine_run(engine, image, arena, scratch);
    done = 1;
  }
  free(memory), free(scratch), free(arena), free(image);
  return done;
}

int main(int argc, char **argv) {
  if (argc < 4) return fprintf(stderr, "usage: mutants ROUNDS SEED FILE...\n"), 2;
  const long rounds = atol(argv[1]);
  state ^= strtoull(argv[2], NULL, 10) * 0x9e3779b97f4a7c15ull;
  long opened = 0, ran = 0;
  for (long round = 0; round < rounds; ++round) {
    static uint8_t *files[64];
    static size_t sizes[64];
    const size_t which = below((size_t)argc - 3 < 64 ? (size_t)argc - 3 : 64);
    if (!files[which]) {
      FILE *f = fopen(argv[3 + which], "rb");
      if (!f || fseek(f, 0, SEEK_END)) return fprintf(stderr, "cannot read %s\n", argv[3 + which]), 2;
      sizes[which] = (size_t)ftell(f);
      rewind(f);
      files[which] = (uint8_t *)malloc(sizes[which]);
      if (!files[which] || fread(files[which], 1, sizes[which], f) != sizes[which]) return 2;
      fclose(f);
    }
    size_t size = sizes[which];
    bsk_program p;
    if (bsk_open(files[which], size, &p) != BSK_OK) return fprintf(stderr, "%s: %s\n", argv[3 + which], p.error), 2;
    /* exactly as large as the file, so that a sanitizer sees each byte too many */
    uint8_t *mutant = (uint8_t *)malloc(size);
    if (!mutant) return 2;
    memcpy(mutant, files[which], size);
    const size_t tensors = (size_t)(p.tensors - p.bytes), ops = (size_t)(p.ops - p.bytes), outputs = (size_t)(p.outputs - p.bytes);
    for (size_t times = below(3) ? 1 : 1 + below(5); times--;) {
      const size_t part = below(20);
      if (part < 11)
        change_row(mutant + ops, BSK_RECORD_BYTES, p.n_ops);
      else if (part < 16)
        change_row(mutant + tensors, BSK_TENSOR_BYTES, p.n_tensors);
      else if (part == 16)
        change(mutant + 16 + 4 * below(12), 4);
      else if (part == 17)
        change(mutant + outputs + below(size - outputs), 1);
      else
        change(mutant + 64 + below(tensors - 64), 1);
    }
    if (below(50) == 0) {
      size = 20 + below(size - 20);
      put(mutant + 16, 4, (uint32_t)size);
      uint8_t *shorter = (uint8_t *)realloc(mutant, size);
      if (shorter) mutant = shorter;
    }
    put(mutant + 12, 4, crc32(mutant + 16, size - 16));
    if (bsk_open(mutant, size, &p) == BSK_OK) {
      ++opened;
      ran += run(&p);
    }
    free(mutant);
  }
  printf("%ld mutants: %ld refused, %ld opened, %ld of them run\n", rounds, rounds - opened, opened, ran);
  return 0;
}
