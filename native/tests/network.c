/* ResNet14 with random constants, without Python: milliseconds of every network and instruction set, in turns, as JSON.
 *
 *     network [rounds] [batch]      medians and least times; a batch runs picture after picture
 *
 * The networks are those of benchmarks/synthetic.py, without shortcuts but for `int8` (what is timed is arithmetic).
 */
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bitskip.h"

enum { FP32, INT8, W1, W1A1 };
static const struct {
  const char *name;
  int stages[3];
} nets[] = {{"w1", {W1, W1, W1}}, {"hybrid", {W1, INT8, W1}}, {"int8", {INT8, INT8, INT8}}, {"w1a1", {W1A1, W1A1, W1A1}}, {"fp32", {FP32, FP32, FP32}}};
#define NETS (sizeof nets / sizeof nets[0])
static const struct {
  const char *name;
  bsk_isa isa;
} isas[] = {{"avx2", BSK_ISA_AVX2}, {"avx512", BSK_ISA_AVX512}, {"amx", BSK_ISA_AMX}, {"neon", BSK_ISA_NEON}};
#define ISAS (sizeof isas / sizeof isas[0])

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + 1e-6 * (double)t.tv_nsec;
}

static void *numbers(size_t n, int bytes) { /* small integers, floats below 1, or bits */
  char *p = (char *)malloc(n * (size_t)bytes);
  for (size_t i = 0; p && i < n; ++i) {
    if (bytes == 4) {
      const float f = (float)rand() / (float)RAND_MAX - 0.5f;
      memcpy(p + 4 * i, &f, 4);
    } else if (bytes == 8) {
      const uint64_t w = (uint64_t)rand() << 33 ^ (uint64_t)rand() << 11 ^ (uint64_t)rand();
      memcpy(p + 8 * i, &w, 8);
    } else {
      p[i] = (char)(rand() % 101 - 50);
    }
  }
  return p;
}

typedef struct {
  bsk_op ops[32];
  size_t n, arena;
} net;

static bsk_tensor place(net *made, int dtype, int side, int c) {
  bsk_tensor t = {dtype, side, side, c, dtype == BSK_I8 ? -128 : 0, (int64_t)made->arena};
  const size_t pixels = (size_t)side * (size_t)side;
  made->arena += (pixels * (dtype == BSK_BITS ? ((size_t)c + 63) / 64 * 8 : dtype == BSK_I8 ? (size_t)c : 4 * (size_t)c) + 63) / 64 * 64;
  return t;
}

static bsk_tensor conv(net *made, bsk_tensor in, int kind, int width, int stride, int last) {
  const bsk_tensor none = {BSK_NO_DTYPE, 0, 0, 0, 0, BSK_AT_NONE};
  bsk_op *op = &made->ops[made->n++];
  const bsk_op empty = {.kind = BSK_OP_CONV,
                        .in = in,
                        .residual = none,
                        .more = {none, none},
                        .out_f32 = none,
                        .out_bits = none,
                        .out_i8 = none,
                        .groups = 1,
                        .kh = 3,
                        .kw = 3,
                        .sh = stride,
                        .sw = stride,
                        .ph = 1,
                        .pw = 1};
  *op = empty;
  const size_t taps = (size_t)width * 9;
  op->weight_dtype = kind == FP32 ? BSK_F32 : kind == INT8 ? BSK_I8 : BSK_BITS;
  op->weights = kind == FP32 ? numbers(taps * (size_t)in.c, 4) : kind == INT8 ? numbers(taps * (size_t)in.c, 1) : numbers(taps * (((size_t)in.c + 63) / 64), 8);
  const int side = (in.h - 1) / stride + 1;
  if (kind == FP32 || last) {
    op->epi.kind = BSK_EPI_FLOAT;
    op->epi.scale = (const float *)numbers((size_t)width, 4), op->epi.bias = (const float *)numbers((size_t)width, 4);
    op->epi.pre.kind = BSK_ACT_RELU;
    return op->out_f32 = place(made, BSK_F32, side, width);
  }
  if (kind == W1A1) {
    op->epi.kind = BSK_EPI_THRESHOLD;
    op->epi.t = (const int32_t *)calloc((size_t)width, 4);
    return op->out_bits = place(made, BSK_BITS, side, width);
  }
  op->epi.kind = BSK_EPI_INTEGER;
  int32_t *m = (int32_t *)malloc(4 * (size_t)width);
  for (int i = 0; i < width; ++i) m[i] = kind == INT8 ? 3000 : 100000;
  op->epi.m = m, op->epi.b = (const int64_t *)calloc((size_t)width, 8), op->epi.shift = 24, op->epi.pre.kind = BSK_ACT_RELU;
  return op->out_i8 = place(made, BSK_I8, side, width);
}

static void build(net *made, const int *stages) {
  memset(made, 0, sizeof *made);
  const int integers = stages[0] == W1 || stages[0] == INT8;
  bsk_tensor x = place(made, integers ? BSK_I8 : BSK_F32, 32, 3);
  x = conv(made, x, integers ? INT8 : FP32, 64, 1, 0);
  if (stages[0] == W1A1) { /* the first layer gives signs */
    bsk_op *op = &made->ops[0];
    op->out_f32.offset = BSK_AT_NONE;
    x = op->out_bits = place(made, BSK_BITS, 32, 64);
  }
  for (int stage = 0; stage < 3; ++stage)
    for (int i = 0; i < 4; ++i) x = conv(made, x, stages[stage], 64 << stage, stage && !i ? 2 : 1, stage == 2 && i == 3);
}

static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

int main(int argc, char **argv) {
  const int rounds = argc > 1 ? atoi(argv[1]) : 200, batch = argc > 2 ? atoi(argv[2]) : 1;
  static net made[NETS];
  bsk_engine *engines[NETS][ISAS] = {{NULL}};
  void *arenas[NETS], *scratch[NETS][ISAS];
  double *times[NETS][ISAS] = {{NULL}};
  for (size_t i = 0; i < NETS; ++i) {
    build(&made[i], nets[i].stages);
    arenas[i] = aligned_alloc(64, made[i].arena);
    if (!arenas[i]) return 2;
    memset(arenas[i], 0, made[i].arena);
    for (size_t k = 0; k < ISAS; ++k) {
      bsk_sizes sizes;
      const bsk_status status = bsk_engine_bytes(made[i].ops, made[i].n, made[i].arena, isas[k].isa, &sizes);
      if (status == BSK_ERR_ISA) continue;
      if (status != BSK_OK) return fprintf(stderr, "%s: %s\n", nets[i].name, bsk_last_error()), 2;
      void *memory = aligned_alloc(64, (sizes.engine_bytes + 63) / 64 * 64);
      scratch[i][k] = aligned_alloc(64, (sizes.scratch_bytes + 63) / 64 * 64);
      times[i][k] = (double *)malloc((size_t)rounds * sizeof(double));
      bsk_engine_init(made[i].ops, made[i].n, made[i].arena, isas[k].isa, memory, sizes.engine_bytes, &engines[i][k]);
    }
  }
  for (int r = -3; r < rounds; ++r)
    for (size_t i = 0; i < NETS; ++i)
      for (size_t k = 0; k < ISAS; ++k) {
        if (!engines[i][k]) continue;
        const double start = now();
        for (int picture = 0; picture < batch; ++picture)
          for (size_t op = 0; op < made[i].n; ++op) bsk_engine_run_op(engines[i][k], op, NULL, arenas[i], scratch[i][k], 0, 1);
        if (r >= 0) times[i][k][r] = now() - start;
      }
  printf("{\"features\": %u, \"rounds\": %d, \"batch\": %d, \"results\": [", (unsigned)bsk_cpu_features(), rounds, batch);
  const char *comma = "";
  for (size_t i = 0; i < NETS; ++i)
    for (size_t k = 0; k < ISAS; ++k) {
      if (!engines[i][k]) continue;
      qsort(times[i][k], (size_t)rounds, sizeof(double), by_value);
      printf("%s\n {\"network\": \"%s\", \"isa\": \"%s\", \"median_ms\": %.4f, \"p10_ms\": %.4f, \"min_ms\": %.4f, \"kernels\": [", comma, nets[i].name,
             isas[k].name, times[i][k][rounds / 2], times[i][k][rounds / 10], times[i][k][0]);
      for (size_t op = 0; op < made[i].n; ++op) printf("%s\"%s\"", op ? ", " : "", bsk_engine_kernel(engines[i][k], op));
      printf("]}");
      comma = ",";
    }
  printf("\n]}\n");
  return 0;
}
