#include "base.cuh"

constexpr bool kInBf16 = true;
constexpr bool kOutE4m3 = true;
constexpr bool kPowerOfTwo = false;
constexpr bool kScaleRowMajor = true;

#include "quantize.cuh"

extern "C" __global__ void __launch_bounds__(256, 1)
kiln_quantize_bf16_e4m3_128x128_row(const __grid_constant__ QuantizeParams params) {
  quantize_blocks(params);
}
