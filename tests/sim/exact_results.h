// What every case of sim_cases.h gives, on the simulator as on a GPU: FNV-1a of D and what
// surrounds it. KILN_SIM_UPDATE=1 makes the simulator's test print this table anew.
#pragma once

#include <cstdint>

namespace kiln::test {

struct ExactResult {
  const char* name;
  std::uint64_t hash;
};
inline constexpr ExactResult kExactResults[] = {
    {"dense 1d2d: tails", 0x3d6ede294918b452},
    {"dense 1d2d: one row", 0x0f64aea042eb66f6},
    {"dense 1d2d: M-major scales", 0xd5eaebf0b130e06c},
    {"dense 1d2d: FP32, wide tile", 0x34708fb512aee319},
    {"dense 1d2d: A in registers", 0xd2e1b7eb0007f4fe},
    {"dense 1d2d: A in registers, cluster in M, mixed types", 0x0ad436c5c8794441},
    {"dense 1d2d: A in registers, reduces", 0x1a79acd51c745f3b},
    {"dense 1d2d: three warpgroups", 0x25f10de6736a687d},
    {"dense 1d2d: two waves, whole rounds", 0xb1224ddd675ef23b},
    {"dense 1d2d: two by one warpgroups in N", 0x41a5f25c267205db},
    {"dense 1d2d: half blocks of columns in N", 0x2f4f9a2f2f8bc1f8},
    {"dense 1d2d: mixed types, narrow", 0x06046dec82c5bbe2},
    {"dense 1d2d: accumulates BF16", 0xfcd4d05f894ff1ee},
    {"dense 1d2d: accumulates FP32", 0xc01e29e896a5e276},
    {"dense 1d2d: reduces", 0x1c48cec3f6c47414},
    {"dense 1d2d: cluster in M", 0x2a492c78bb88a489},
    {"dense 1d2d: cluster in N", 0x5de44febc783d9d4},
    {"dense 1d2d: cluster of four", 0x611645aba8ee3b1c},
    {"dense 1d2d: eight rows", 0xb7b7a972702967c9},
    {"dense 1d2d: low tiles", 0x49ec7a765eccac7a},
    {"dense 1d2d: low tiles accumulate", 0xa3503097d8e241e0},
    {"dense 1d2d: parts in a cluster", 0x3564fc8d72eef8ec},
    {"dense 1d2d: parts accumulate", 0x674981cd3226d5c2},
    {"dense 1d2d: four parts, tails", 0x311e3113ce14108e},
    {"dense 1d2d: parts of two warpgroups", 0xe66b77a61f99ff69},
    {"dense 1d1d: tails", 0x879742a569f9c555},
    {"dense 1d1d: BF16", 0xa29000a6ce67237f},
    {"dense 1d1d: accumulates", 0xcc80a370e3a0fd85},
    {"dense 1d1d: reduces", 0xcc80a370e3a0fd85},
    {"dense 1d1d: reduces, split scales", 0xa5d22cc195ada696},
    {"dense 1d1d: no K", 0x42c41c28347a3965},
    {"dense 1d1d: cluster", 0x6cea5b88aedc0ac1},
    {"dense 1d1d: two passes, BF16", 0x7ee89a8a8d3b5967},
    {"dense 1d1d: four passes, reduces, cluster", 0xdac6e94ebaf91f5c},
    {"contiguous: labels", 0xecf6a97615f06f8e},
    {"contiguous: labels with gaps, zeros behind", 0x4a2991f7f30f24be},
    {"contiguous: ends", 0xecf6a97615f06f8e},
    {"contiguous: aligned ends", 0xd6292ebb2145db2e},
    {"contiguous: one row each", 0x22dd55f564cd591d},
    {"contiguous: no rows", 0x492fb1e6f5ecfe05},
    {"contiguous: accumulates", 0x642c5fe46853356f},
    {"contiguous: cluster", 0x31a9fee8379538a1},
    {"contiguous: A in registers, lone rows", 0x9d1efa8867d2047d},
    {"masked: ragged", 0x76972b557e99e529},
    {"masked: M-major scales", 0x20052171d7eb3bc5},
    {"masked: low tiles", 0x1717c571ea61bf05},
    {"masked: FP32", 0x46968c3c6b2506d3},
    {"masked: expert map", 0x9c0ea5658a2b53e7},
    {"masked: accumulates", 0x8768f5484c8650e2},
    {"masked: cluster", 0xa5d0ae70b9f7bb30},
    {"masked: A in registers", 0x5144037c61f46282},
    {"grouped_k: ends", 0x9d21a62849ed5a85},
    {"grouped_k: packed", 0x9d21a62849ed5a85},
    {"grouped_k: packed, accumulates", 0xa5f57dd8a8b2e8e6},
    {"grouped_k: reduces", 0xf4aac69142b3590c},
    {"grouped_k: BF16, no K at all", 0xb83135a6ff31d3c5},
    {"grouped_k: cluster", 0x7329a582903071c0},
    {"grouped_k: two passes, packed, reduces", 0x500b3a7c9add2c2a},
};

}  // namespace kiln::test
