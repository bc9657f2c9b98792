/* The logits of a packed file, exactly: `logits MODEL.bitskip ISA [pictures]`, one picture a line in hexadecimal floats.
 *
 * Pictures are a formula (byte i of all of them is bits 13 to 20 of i * 2654435761), so that another program can compute the
 * same. The kernels that ran are named first.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bitskip.h"

static int fail(const char *what) { return fprintf(stderr, "logits: %s\n", what), 2; }

static void *block(size_t bytes) { return aligned_alloc(64, (bytes + 64) / 64 * 64); }

int main(int argc, char **argv) {
  static const char *const names[] = {
      [BSK_ISA_SCALAR] = "scalar",
#define BSK_FAMILY(processor, name, NAME, base, bit, number) [BSK_ISA_##NAME] = #name,
#include "bitskip_isas.inc"
  };
  bsk_program program;
  bsk_sizes sizes;
  bsk_engine *engine;
  int isa = -1;
  for (size_t i = 0; argc > 2 && i < sizeof names / sizeof *names; ++i)
    if (names[i] && strcmp(argv[2], names[i]) == 0) isa = (int)i;
  if (isa < 0) return fail("usage: logits MODEL.bitskip scalar|<family of bitskip_isas.inc> [pictures]");
  FILE *file = fopen(argv[1], "rb");
  if (!file || fseek(file, 0, SEEK_END)) return fail("the model cannot be read");
  const size_t size = (size_t)ftell(file);
  void *model = block(size);
  rewind(file);
  if (!model || fread(model, 1, size, file) != size) return fail("the model cannot be read");
  fclose(file);
  if (bsk_open(model, size, &program) != BSK_OK) return fail(program.error);
  bsk_op *ops = (bsk_op *)malloc(program.n_ops * sizeof *ops);
  for (uint32_t i = 0; ops && i < program.n_ops; ++i) bsk_program_op(&program, i, &ops[i]);
  if (!ops || bsk_engine_bytes(ops, program.n_ops, program.arena_bytes, (bsk_isa)isa, &sizes) != BSK_OK) return fail(bsk_last_error());
  void *memory = block(sizes.engine_bytes), *scratch = block(sizes.scratch_bytes);
  char *arena = (char *)block(sizes.arena_bytes);
  const size_t bytes = bsk_program_image_bytes(&program);
  uint8_t *picture = (uint8_t *)block(bytes);
  if (!memory || !scratch || !arena || !picture) return fail("there is not enough memory");
  if (bsk_engine_init(ops, program.n_ops, program.arena_bytes, (bsk_isa)isa, memory, sizes.engine_bytes, &engine) != BSK_OK) return fail(bsk_last_error());
  for (uint32_t i = 0; i < program.n_ops; ++i) printf("%s%s", i ? " " : "kernels: ", bsk_engine_kernel(engine, i));
  printf("\n");
  const bsk_tensor out = bsk_program_output(&program, 0);
  const size_t n = argc > 3 ? (size_t)atoi(argv[3]) : 1;
  for (size_t at = 0; at < n; ++at) {
    for (size_t i = 0; i < bytes; ++i) picture[i] = (uint8_t)((uint32_t)(at * bytes + i) * 2654435761u >> 13);
    bsk_engine_run(engine, picture, arena, scratch);
    const float *logits = (const float *)(const void *)(arena + out.offset);
    for (int i = 0; i < out.c; ++i) printf("%a%c", (double)logits[i], i + 1 < out.c ? ' ' : '\n');
  }
  return 0;
}
