/* From accumulators to tensors: the epilogues of docs/program.md, and every elementwise operation (their accumulator
 * is then a tensor). Each float operation is one rounded float32 operation: these files are compiled without
 * contraction, and use no fused multiply-add.
 */
#ifndef BSK_EPILOGUE_H
#define BSK_EPILOGUE_H
#include "../kernel.h"
#define BSK_DECLARE_EPILOGUES(isa)                                                 \
  void bsk_epi_float_f32_##isa(const bsk_epi_float *e, const bsk_epi_call *c);     \
  void bsk_epi_float_i32_##isa(const bsk_epi_float *e, const bsk_epi_call *c);     \
  void bsk_epi_threshold_##isa(const bsk_epi_threshold *e, const bsk_epi_call *c); \
  void bsk_epi_integer_##isa(const bsk_epi_integer *e, const bsk_epi_call *c);
BSK_DECLARE_EPILOGUES(scalar)
BSK_DECLARE_EPILOGUES(avx2)
BSK_DECLARE_EPILOGUES(avx512)
BSK_DECLARE_EPILOGUES(neon)
#endif
