/* ResNet-8 of MLPerf Tiny through CMSIS-NN, as TFLite Micro calls it, for counting: weights are a pattern.
 *
 * int8, a scale a channel; batch norms folded, ReLUs fused into convolutions and additions.
 */
#include "arm_nnfunctions.h"
#include "board.h"

static int8_t weights[64 * 9 * 64];
static int32_t bias[64], multiplier[64], shift[64];
static int8_t picture[32 * 32 * 3], one[32 * 32 * 16], two[32 * 32 * 16], three[32 * 32 * 16];
static int8_t pooled[64], logits[10];
static uint8_t buffer[16384];
static int32_t largest_buffer;

static uint32_t conv(const int8_t *in, int32_t size, int32_t in_c, int8_t *out, int32_t out_c, int32_t kernel, int32_t stride)
{
    const int32_t out_size = size / stride;
    const cmsis_nn_context context = { buffer, sizeof buffer };
    const cmsis_nn_conv_params params = {
        128, -128, { stride, stride }, { kernel / 2, kernel / 2 }, { 1, 1 }, { -128, 127 }
    };
    const cmsis_nn_per_channel_quant_params quant = { multiplier, shift };
    const cmsis_nn_dims in_d = { 1, size, size, in_c }, filter_d = { out_c, kernel, kernel, in_c };
    const cmsis_nn_dims bias_d = { 1, 1, 1, out_c }, out_d = { 1, out_size, out_size, out_c };
    const int32_t needed = arm_convolve_wrapper_s8_get_buffer_size(&params, &in_d, &filter_d, &out_d);
    uint32_t start;
    if (needed > largest_buffer) {
        largest_buffer = needed;
    }
    start = now();
    if (arm_convolve_wrapper_s8(&context, &params, &quant, &in_d, in, &filter_d, weights, &bias_d, bias, &out_d, out) != 0
        || needed > (int32_t)sizeof buffer) {
        print("convolution refused\n");
    }
    return since(start);
}

static uint32_t add(const int8_t *a, const int8_t *b, int8_t *out, int32_t count)
{
    const uint32_t start = now();
    arm_elementwise_add_s8(a, b, 128, 1 << 30, 0, 128, 1 << 30, 0, 20, out, -128, 1 << 30, -19, -128, 127, count);
    return since(start);
}

int main(void)
{
    uint32_t convolutions = 0, rest = 0, start;
    int32_t k;
    for (k = 0; k < (int32_t)sizeof weights; k++) {
        weights[k] = (int8_t)(k * 7 + (k >> 5));
    }
    for (k = 0; k < (int32_t)sizeof picture; k++) {
        picture[k] = (int8_t)(k * 11);
    }
    for (k = 0; k < 64; k++) {
        multiplier[k] = 1500000000;
        shift[k] = -8;
    }
    clock_start();
    convolutions += conv(picture, 32, 3, one, 16, 3, 1);
    convolutions += conv(one, 32, 16, two, 16, 3, 1);
    convolutions += conv(two, 32, 16, three, 16, 3, 1);
    rest += add(one, three, one, 32 * 32 * 16);
    convolutions += conv(one, 32, 16, two, 32, 3, 2);
    convolutions += conv(two, 16, 32, three, 32, 3, 1);
    convolutions += conv(one, 32, 16, two, 32, 1, 2);
    rest += add(two, three, one, 16 * 16 * 32);
    convolutions += conv(one, 16, 32, two, 64, 3, 2);
    convolutions += conv(two, 8, 64, three, 64, 3, 1);
    convolutions += conv(one, 16, 32, two, 64, 1, 2);
    rest += add(two, three, one, 8 * 8 * 64);
    {
        const cmsis_nn_context context = { buffer, sizeof buffer };
        const cmsis_nn_pool_params pool = { { 8, 8 }, { 0, 0 }, { -128, 127 } };
        const cmsis_nn_dims in_d = { 1, 8, 8, 64 }, filter_d = { 1, 8, 8, 1 }, out_d = { 1, 1, 1, 64 };
        const cmsis_nn_fc_params fc = { 128, 0, 0, { -128, 127 } };
        const cmsis_nn_per_tensor_quant_params quant = { 1500000000, -8 };
        const cmsis_nn_dims fc_in = { 1, 1, 1, 64 }, fc_filter = { 64, 1, 1, 10 }, fc_out = { 1, 1, 1, 10 };
        start = now();
        arm_avgpool_s8(&context, &pool, &in_d, one, &filter_d, &out_d, pooled);
        arm_fully_connected_s8(&context, &fc, &quant, &fc_in, pooled, &fc_filter, weights, &fc_out, bias, &fc_out, logits);
        rest += since(start);
    }
    print_number("convolutions", convolutions);
    print_number("rest", rest);
    print_number("instructions", convolutions + rest);
    print_number("buffer", (uint32_t)largest_buffer);
    leave();
    return 0;
}
