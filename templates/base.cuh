// Fixed-width names for device code and for the host C++ that shares some of these files.
#pragma once

#ifdef __CUDACC_RTC__
using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i32 = int;
using i64 = long long;
#define KILN_DEVICE __device__ __forceinline__
#define KILN_SHARED_CODE __host__ __device__ constexpr
#else
#include <cstdint>
namespace kiln::device {
using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = unsigned long long;
using i32 = std::int32_t;
using i64 = long long;
}  // namespace kiln::device
#define KILN_SHARED_CODE constexpr
#endif

// Declarations that host and device share live in kiln::device on the host and globally on the
// device, where a program is one kernel.
#ifdef __CUDACC_RTC__
#define KILN_BEGIN_SHARED
#define KILN_END_SHARED
#else
#define KILN_BEGIN_SHARED namespace kiln::device {
#define KILN_END_SHARED }
#endif

// Layouts as the rendered constant kLayout has them; the order is that of kiln.h.
KILN_BEGIN_SHARED
constexpr u32 kDense = 0, kGroupedContiguous = 1, kGroupedMasked = 2, kGroupedK = 3;
KILN_END_SHARED
