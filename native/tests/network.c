/* ResNet14 with random constants, without Python: milliseconds a picture of every network and instruction set, one by one and
 * side by side, as JSON.
 *
 *     network [rounds] [pictures] [name]     of all networks, or one
 *
 * Operations: kernel, alone, side by side, and whether pictures go through it together; where not, alone counts for both sums.
 * Networks take turns; the least processor time of each operation counts, for what disturbs a run only ever adds, and their sums.
 * The networks are those of benchmarks/synthetic.py, without shortcuts but for `int8` (what is timed is arithmetic).
 */
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <string.h>

#include "conv_op.h"

enum { FP32, INT8, W1, W1A1 };
static const struct {
  const char *name;
  int stages[3];
} nets[] = {{"w1", {W1, W1, W1}}, {"hybrid", {W1, INT8, W1}}, {"int8", {INT8, INT8, INT8}}, {"w1a1", {W1A1, W1A1, W1A1}}, {"fp32", {FP32, FP32, FP32}}};
#define NETS (sizeof nets / sizeof nets[0])
static const struct {
  const char *name;
  bsk_isa isa;
} isas[] = {
#define BSK_FAMILY(processor, name, NAME, base, bit, number) {#name, BSK_ISA_##NAME},
#include "bitskip_isas.inc"
};
#define ISAS (sizeof isas / sizeof isas[0])

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
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

enum { MAX_OPS = 32 };

typedef struct {
  bsk_op ops[MAX_OPS];
  size_t n, arena;
} net;

static bsk_tensor place(net *made, int dtype, int side, int c) {
  bsk_tensor t = {dtype, side, side, c, dtype == BSK_I8 ? -128 : 0, (int64_t)made->arena};
  const size_t pixels = (size_t)side * (size_t)side;
  made->arena += (pixels * (dtype == BSK_BITS ? ((size_t)c + 63) / 64 * 8 : dtype == BSK_I8 ? (size_t)c : 4 * (size_t)c) + 63) / 64 * 64;
  return t;
}

static bsk_tensor conv(net *made, bsk_tensor in, int kind, int width, int stride, int last) {
  const size_t taps = (size_t)width * 9;
  const void *weights = kind == FP32   ? numbers(taps * (size_t)in.c, 4)
                        : kind == INT8 ? numbers(taps * (size_t)in.c, 1)
                                       : numbers(taps * (((size_t)in.c + 63) / 64), 8);
  bsk_op *op = &made->ops[made->n++];
  *op = conv_op(in, 3, stride, kind == FP32 ? BSK_F32 : kind == INT8 ? BSK_I8 : BSK_BITS, weights);
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

/* A thread's memory for one engine, and the least times of its operations. */
typedef struct {
  bsk_engine *engine; /* NULL: not on this machine */
  bsk_batch batch;
  double one[MAX_OPS], side[MAX_OPS];
} bench;

static int ready(bench *b, const net *made, bsk_isa isa, size_t pictures) {
  bsk_sizes sizes;
  const bsk_status status = bsk_engine_bytes(made->ops, made->n, made->arena, isa, &sizes);
  if (status == BSK_ERR_ISA) return 1;
  if (status != BSK_OK) return 0;
  void *memory = aligned(sizes.engine_bytes);
  b->batch.count = pictures < sizes.batch ? pictures : sizes.batch;
  b->batch.arena_step = (made->arena + 63) / 64 * 64;
  b->batch.arenas = aligned(b->batch.arena_step * b->batch.count), b->batch.scratch = aligned(sizes.batch_scratch_bytes);
  if (!memory || !b->batch.arenas || !b->batch.scratch) return 0;
  memset(b->batch.arenas, 0, b->batch.arena_step * b->batch.count);
  for (size_t op = 0; op < made->n; ++op) b->one[op] = b->side[op] = 1e9;
  return bsk_engine_init(made->ops, made->n, made->arena, isa, memory, sizes.engine_bytes, &b->engine) == BSK_OK;
}

/* A pass of all operations, each timed. */
static void pass(const bench *b, size_t n, const bsk_batch *batch, double *least) {
  double before = now();
  for (size_t op = 0; op < n; ++op) {
    bsk_engine_run_batch_op(b->engine, op, batch);
    const double after = now(), each = (after - before) / (double)batch->count;
    if (each < least[op]) least[op] = each;
    before = after;
  }
}

int main(int argc, char **argv) {
  const size_t rounds = argc > 1 ? (size_t)atoi(argv[1]) : 200, pictures = argc > 2 ? (size_t)atoi(argv[2]) : 8;
  static net made[NETS];
  static bench benches[NETS][ISAS];
  for (size_t i = 0; i < NETS; ++i) {
    build(&made[i], nets[i].stages);
    for (size_t k = 0; k < ISAS && (argc < 4 || strcmp(argv[3], nets[i].name) == 0); ++k)
      if (!ready(&benches[i][k], &made[i], isas[k].isa, pictures)) return fprintf(stderr, "%s: %s\n", nets[i].name, bsk_last_error()), 2;
  }
  for (size_t r = 0; r < rounds; ++r)
    for (size_t i = 0; i < NETS; ++i)
      for (size_t k = 0; k < ISAS; ++k) {
        bench *b = &benches[i][k];
        if (!b->engine) continue;
        bsk_batch one = b->batch;
        one.count = 1;
        for (size_t picture = 0; picture < b->batch.count; ++picture) pass(b, made[i].n, &one, b->one);
        pass(b, made[i].n, &b->batch, b->side);
      }
  printf("{\"features\": %u, \"rounds\": %zu, \"results\": [", (unsigned)bsk_cpu_features(), rounds);
  const char *comma = "";
  for (size_t i = 0; i < NETS; ++i)
    for (size_t k = 0; k < ISAS; ++k) {
      const bench *b = &benches[i][k];
      if (!b->engine) continue;
      double one = 0.0, side = 0.0;
      for (size_t op = 0; op < made[i].n; ++op) one += b->one[op], side += bsk_engine_together(b->engine, op) ? b->side[op] : b->one[op];
      printf("%s\n {\"network\": \"%s\", \"isa\": \"%s\", \"ms\": %.4f, \"pictures\": %zu, \"ms_side_by_side\": %.4f, \"ratio\": %.3f, \"ops\": [", comma,
             nets[i].name, isas[k].name, one, b->batch.count, side, side / one);
      for (size_t op = 0; op < made[i].n; ++op)
        printf("%s\n  [\"%s\", %.4f, %.4f, %s]", op ? "," : "", bsk_engine_kernel(b->engine, op), b->one[op], b->side[op],
               bsk_engine_together(b->engine, op) ? "true" : "false");
      printf("]}");
      comma = ",";
    }
  printf("\n]}\n");
  return 0;
}
