/* Loops that compilers vectorise well: rows in the form a kernel wants, the input, pools. One source, compiled once
 * for each instruction set; `plain.inl` is that source.
 */
#ifndef BSK_PLAIN_H
#define BSK_PLAIN_H
#include "../variants.h"
#endif
