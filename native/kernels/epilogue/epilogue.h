/* From accumulators to tensors: the epilogues of docs/program.md, and every elementwise operation (their accumulator
 * is then a tensor). Each float operation is one rounded float32 operation: these files are compiled without
 * contraction, and use no fused multiply-add.
 */
#ifndef BSK_EPILOGUE_H
#define BSK_EPILOGUE_H
#include "../variants.h"
#endif
