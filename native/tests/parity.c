/* Every instruction set of this machine against the scalar kernels, on random operations; for machines without Python,
 * emulators (qemu-aarch64) and sanitizers. `parity [rounds] [seed]`; the exit status is the number of differences, at most 1.
 *
 * Integer results must be equal to the byte, in the whole arena. Float sums may differ in order: those are compared
 * within a tolerance, and only the f32 output.
 */
#if defined(__linux__)
#define _GNU_SOURCE
#include <sys/mman.h>
#endif
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bitskip.h"
#include "dispatch.h"

static uint64_t state;

static uint32_t next(void) {
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return (uint32_t)(state >> 16);
}
static int below(int n) { return (int)(next() % (uint32_t)n); }
static float real(void) { return (float)below(2001) / 1000.0f - 1.0f; }

static const int channels[] = {1, 3, 4, 5, 8, 16, 31, 32, 33, 63, 64, 65, 96, 127, 128, 129, 200};
static const int kernels[] = {1, 3, 5, 7};
#define PICK(list) list[below((int)(sizeof(list) / sizeof((list)[0])))]

static size_t bytes_of(const bsk_tensor *t) {
  const size_t pixels = (size_t)t->h * (size_t)t->w, c = (size_t)t->c;
  return t->dtype == BSK_BITS ? pixels * ((c + 63) / 64) * 8 : t->dtype == BSK_I8 ? pixels * c : pixels * c * 4;
}

static void place(bsk_tensor *t, bsk_dtype dtype, int h, int w, int c, int zero_point, size_t *arena) {
  t->dtype = dtype, t->h = h, t->w = w, t->c = c, t->zero_point = zero_point;
  t->offset = (int64_t)*arena;
  *arena += (bytes_of(t) + 63) / 64 * 64;
}

/* Random content in the form of the tensor: unused bits are 0, floats are tame. */
static void fill(const bsk_tensor *t, char *arena) {
  char *at = arena + t->offset;
  if (t->offset < 0) return;
  if (t->dtype == BSK_F32) {
    for (size_t i = 0; i < bytes_of(t) / 4; ++i) ((float *)(void *)at)[i] = real();
    return;
  }
  const int kind = t->dtype == BSK_I8 ? below(5) : 0, bits = kind < 4 ? kind : 2; /* kernels may count on small values where they see them */
  for (size_t i = 0; i < bytes_of(t); ++i)
    at[i] = (char)((below(256) >> (kind == 4 && below(40) == 0 ? 0 : bits)) - (bits ? 128 : 0)); /* or on few large ones */
  if (t->dtype == BSK_BITS && t->c % 64) {
    uint64_t *words = (uint64_t *)(void *)at;
    const size_t n = ((size_t)t->c + 63) / 64;
    for (size_t p = 1; p <= (size_t)t->h * (size_t)t->w; ++p) words[p * n - 1] &= (1ull << (t->c % 64)) - 1;
  }
}

#define MAX_C 256
static float vectors[9][MAX_C];
static int32_t ints[2][MAX_C];
static int64_t longs[MAX_C];
static uint8_t flips[MAX_C];

static void random_op(bsk_op *op, size_t *arena, char *weights, size_t weight_room) {
  static const int ins[] = {BSK_BITS, BSK_I8, BSK_I8, BSK_F32, BSK_F32}, ws[] = {BSK_BITS, BSK_BITS, BSK_I8, BSK_BITS, BSK_F32};
  memset(op, 0, sizeof *op);
  for (;;) {
    const int types = below(5);
    const int plain = below(3) == 0; /* 3x3 of stride 1 or 2 on whole vectors of channels, which have kernels of their own */
    const int in = ins[types], k0 = plain ? 3 : PICK(kernels), k1 = plain || below(3) ? k0 : PICK(kernels), h = 1 + below(12), w = 1 + below(12);
    const int ci = plain ? 16 << below(4) : PICK(channels), other = PICK(channels), grouping = types == 2 || types == 4 ? below(4) : 0;
    const int co = grouping == 1 ? ci : other; /* a quarter depthwise, a quarter in two groups where the channels allow */
    op->groups = grouping == 1 ? ci : grouping == 2 && ci % 2 == 0 && co % 2 == 0 ? 2 : 1;
    op->kh = k0, op->kw = k1, op->sh = 1 + below(plain ? 2 : 3), op->sw = plain ? op->sh : 1 + below(3);
    const int spread = below(3) == 0; /* taps that lie apart */
    op->gap_h = spread && k0 > 1 ? below(4) : 0, op->gap_w = spread && k1 > 1 ? below(4) : 0;
    const int reach0 = (op->gap_h + 1) * (k0 - 1) + 1, reach1 = (op->gap_w + 1) * (k1 - 1) + 1;
    op->ph = below(reach0), op->pw = below(reach1);
    op->weight_dtype = ws[types];
    const size_t taps = (size_t)co * (size_t)k0 * (size_t)k1;
    const size_t need =
        op->weight_dtype == BSK_BITS ? taps * (((size_t)ci + 63) / 64) * 8 : taps * (size_t)(ci / op->groups) * (op->weight_dtype == BSK_F32 ? 4 : 1);
    if (h + 2 * op->ph < reach0 || w + 2 * op->pw < reach1 || need > weight_room) continue;
    *arena = 0;
    const bsk_tensor none = {BSK_NO_DTYPE, 0, 0, 0, 0, BSK_AT_NONE};
    op->residual = op->more[0] = op->more[1] = op->out_f32 = op->out_bits = op->out_i8 = none;
    place(&op->in, (bsk_dtype)in, h, w, ci, in == BSK_I8 ? below(below(2) ? 256 : 64) - 128 : 0, arena); /* half of them as behind a relu */
    op->pad_value = below(3) - 1;
    op->weights = weights;
    if (op->weight_dtype == BSK_F32)
      for (size_t i = 0; i < need / 4; ++i) ((float *)(void *)weights)[i] = real();
    else
      for (size_t i = 0; i < need; ++i) weights[i] = (char)(below(255) - 127);
    if (op->weight_dtype == BSK_BITS && ci % 64) {
      const size_t n = ((size_t)ci + 63) / 64;
      for (size_t i = 1; i <= taps; ++i) ((uint64_t *)(void *)weights)[i * n - 1] &= (1ull << (ci % 64)) - 1;
    }
    const int oh = (h + 2 * op->ph - reach0) / op->sh + 1, ow = (w + 2 * op->pw - reach1) / op->sw + 1;
    for (int v = 0; v < 9; ++v)
      for (int i = 0; i < MAX_C; ++i) vectors[v][i] = real();
    for (int i = 0; i < MAX_C; ++i) {
      ints[0][i] = below(401) - 200, ints[1][i] = (int32_t)next() >> below(16);
      longs[i] = (int64_t)(int32_t)next() * below(1000), flips[i] = (uint8_t)below(2);
    }
    bsk_epilogue *e = &op->epi;
    e->kind = in == BSK_F32 ? BSK_EPI_FLOAT : 1 + below(3);
    if (e->kind == BSK_EPI_THRESHOLD) {
      e->t = ints[0], e->flip = flips;
      place(&op->out_bits, BSK_BITS, oh, ow, co, 0, arena);
    } else if (e->kind == BSK_EPI_INTEGER) {
      e->m = ints[1], e->b = longs, e->shift = 1 + below(40), e->residual_m = (int32_t)next() >> below(16);
      e->pre.kind = below(2), e->post.kind = below(2);
      if (below(2)) place(&op->residual, BSK_I8, oh, ow, co, below(256) - 128, arena);
      place(&op->out_i8, BSK_I8, oh, ow, co, below(256) - 128, arena);
    } else {
      const int outputs = 1 + below(7);
      e->scale = vectors[0], e->bias = vectors[1], e->threshold = vectors[2], e->inv_scale = 40.0f;
      const bsk_act pre = {below(4), vectors[3], vectors[4], vectors[5]}, post = {below(4), vectors[6], vectors[7], vectors[8]};
      e->pre = pre, e->post = post;
      if (below(2)) place(&op->residual, BSK_F32, oh, ow, co, 0, arena);
      if (outputs & 1) place(&op->out_f32, BSK_F32, oh, ow, co, 0, arena);
      if (outputs & 2) place(&op->out_bits, BSK_BITS, oh, ow, co, 0, arena);
      if (outputs & 4) place(&op->out_i8, BSK_I8, oh, ow, co, below(256) - 128, arena);
    }
    return;
  }
}

/* Memory of `bytes`, in whole 64 bytes, that ends (on Linux) where a page begins that may not be touched. */
static size_t whole(size_t bytes) { return (bytes + 63) / 64 * 64; }
#if defined(__linux__)
#define GUARD ((size_t)4096)
static size_t pages_of(size_t bytes) { return (whole(bytes) + GUARD - 1) / GUARD * GUARD; }
static char *take(size_t bytes) {
  char *base = (char *)mmap(NULL, pages_of(bytes) + GUARD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == (char *)MAP_FAILED || mprotect(base + pages_of(bytes), GUARD, PROT_NONE)) exit(2);
  return base + pages_of(bytes) - whole(bytes);
}
static void give(char *block, size_t bytes) { munmap(block + whole(bytes) - pages_of(bytes), pages_of(bytes) + GUARD); }
#else
static char *take(size_t bytes) {
  char *block = (char *)aligned_alloc(64, whole(bytes + 1));
  if (!block) exit(2);
  return block;
}
static void give(char *block, size_t bytes) { (void)bytes, free(block); }
#endif

static long batches;
static int wrong;

/* Different pictures side by side beside the same one by one: every byte of every arena must be the same. */
static int differs_in_batch(const bsk_engine *engine, const bsk_op *op, const bsk_sizes *sizes, const char *arena, size_t bytes) {
  if (sizes->batch == 1) return 0;
  const size_t count = 2 + (size_t)below((int)sizes->batch - 1);
  char *alone = take(count * bytes), *together = take(count * bytes), *scratch = take(sizes->batch_scratch_bytes);
  for (size_t i = 0; i < count; ++i) {
    memcpy(alone + i * bytes, arena, bytes);
    fill(&op->in, alone + i * bytes), fill(&op->residual, alone + i * bytes);
  }
  memcpy(together, alone, count * bytes);
  for (size_t i = 0; i < count; ++i) bsk_engine_run_op(engine, 0, NULL, alone + i * bytes, scratch, 0, 1);
  const bsk_batch batch = {NULL, 0, together, bytes, scratch, count};
  bsk_engine_run_batch(engine, &batch);
  const int differs = memcmp(alone, together, count * bytes) != 0;
  ++batches;
  give(alone, count * bytes), give(together, count * bytes), give(scratch, sizes->batch_scratch_bytes);
  return differs;
}

/* Run `op` on a copy of `arena`, which the caller gives back; NULL where another kernel than `wanted` would run. */
static char *run(const bsk_op *op, bsk_isa isa, const char *wanted, const char *arena, size_t bytes, int parts, char *name, size_t name_room) {
  bsk_sizes sizes;
  bsk_engine *engine;
  if (bsk_engine_bytes(op, 1, bytes, isa, &sizes) != BSK_OK) {
    fprintf(stderr, "refused: %s\n", bsk_last_error());
    exit(2);
  }
  char *memory = take(sizes.engine_bytes), *copy = NULL;
  if (bsk_engine_init(op, 1, bytes, isa, memory, sizes.engine_bytes, &engine) != BSK_OK) exit(2);
  snprintf(name, name_room, "%s", bsk_engine_kernel(engine, 0));
  if (!wanted || strcmp(wanted, name) == 0) {
    char *scratch = take(sizes.scratch_bytes);
    copy = take(bytes);
    memcpy(copy, arena, bytes);
    for (int part = 0; part < parts; ++part) bsk_engine_run_op(engine, 0, NULL, copy, scratch, part, parts);
    give(scratch, sizes.scratch_bytes);
    if (differs_in_batch(engine, op, &sizes, arena, bytes)) {
      ++wrong;
      printf("%s differs side by side: %dx%dx%d, kernel %dx%d stride %d,%d\n", name, op->in.h, op->in.w, op->in.c, op->kh, op->kw, op->sh, op->sw);
    }
  }
  give(memory, sizes.engine_bytes);
  return copy;
}

static int same(const bsk_op *op, const char *a, const char *b, size_t bytes) {
  if (op->in.dtype != BSK_F32) return memcmp(a, b, bytes) == 0;
  if (op->out_f32.offset < 0) return 1;
  const float *x = (const float *)(const void *)(a + op->out_f32.offset), *y = (const float *)(const void *)(b + op->out_f32.offset);
  for (size_t i = 0; i < bytes_of(&op->out_f32) / 4; ++i)
    if (!(fabsf(x[i] - y[i]) <= 1e-3f + 1e-4f * fabsf(x[i]))) return 0;
  return 1;
}

/* 1 where the kernel, `wanted` or the best of `isa`, can run this operation; a result unlike that of scalar is counted and printed. */
static int compare(int round, const bsk_op *op, bsk_isa isa, const char *wanted, const char *arena, const char *expected, size_t bytes) {
  char name[64];
  char *got = run(op, isa, wanted, arena, bytes, 1 + round % 3, name, sizeof name);
  if (!got) return 0;
  if (!same(op, expected, got, bytes)) {
    ++wrong;
    printf("round %d: %s differs from scalar: %dx%dx%d -> %d, kernel %dx%d stride %d,%d padding %d,%d, epilogue %d\n", round, name, op->in.h, op->in.w,
           op->in.c, op->out_f32.c | op->out_bits.c | op->out_i8.c, op->kh, op->kw, op->sh, op->sw, op->ph, op->pw, op->epi.kind);
  }
  give(got, bytes);
  return 1;
}

int main(int argc, char **argv) {
  const int rounds = argc > 1 ? atoi(argv[1]) : 300;
  const uint64_t seed = argc > 2 ? (uint64_t)strtoull(argv[2], NULL, 10) : 0;
  const size_t room = 1 << 20;
  char *weights = (char *)malloc(room);
  long compared = 0, by_name[128] = {0};
  for (int round = 0; round < rounds && weights; ++round) {
    bsk_op op;
    size_t bytes;
    char name[64];
    state = 88172645463325252ull ^ (seed * 1000003 + (uint64_t)round + 1) * 0x9e3779b97f4a7c15ull; /* so that a round is the same on every machine */
    for (int i = 0; i < 8; ++i) next();
    random_op(&op, &bytes, weights, room);
    char *arena = (char *)calloc(bytes, 1);
    if (!arena) return 2;
    fill(&op.in, arena);
    fill(&op.residual, arena);
    char *expected = run(&op, BSK_ISA_SCALAR, NULL, arena, bytes, 1, name, sizeof name);
    static const bsk_isa isas[] = {
#define BSK_FAMILY(processor, name, NAME, base, bit, number) BSK_ISA_##NAME,
#include "bitskip_isas.inc"
        BSK_ISA_BEST};
    /* Shadowed kernels too: the best of a family, then without its extensions. */
    static const uint32_t limits[] = {~0u, ~(uint32_t)(0
#define BSK_EXTENSION(processor, name, NAME, base, bit) | BSK_CPU_##NAME
#include "bitskip_isas.inc"
                                                       )};
    for (size_t i = 0; i < 2 * sizeof isas / sizeof isas[0]; ++i) {
      bsk_sizes sizes;
      const bsk_isa isa = isas[i / 2];
      bsk_cpu_limit(limits[i % 2]);
      if (bsk_engine_bytes(&op, 1, bytes, isa, &sizes) == BSK_ERR_ISA) continue;
      compared += compare(round, &op, isa, NULL, arena, expected, bytes);
    }
    bsk_cpu_limit(~0u);
    for (size_t i = 0; bsk_conv_variant(i); ++i) { /* and every variant by name, also where another is chosen */
      bsk_conv_prefer(bsk_conv_variant(i)->name);
      const int could = compare(round, &op, BSK_ISA_BEST, bsk_conv_variant(i)->name, arena, expected, bytes);
      by_name[i] += could, compared += could;
    }
    bsk_conv_prefer(NULL);
    give(expected, bytes);
    free(arena);
  }
  free(weights);
  bsk_cpu_limit(~0u);
  for (size_t i = 0; bsk_conv_variant(i); ++i)
    if (by_name[i]) printf("%s: %ld\n", bsk_conv_variant(i)->name, by_name[i]);
  printf("%ld comparisons, %ld batches, %d differences, processor features 0x%x\n", compared, batches, wrong, (unsigned)bsk_cpu_features());
  return wrong != 0;
}
