// render(): KernelSpec -> a complete NVRTC program. No disk, no GPU: the templates are embedded.
#pragma once

#include <compare>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "jit/problem.h"
#include "jit/tile.h"

namespace kiln::jit {

// A GPU target. Kiln's kernels are written for sm_90a alone.
struct Arch {
  std::int32_t sm = 90;
  auto operator<=>(const Arch&) const = default;
};
std::string name(Arch arch);                                     // "sm_90a"
Arch parse_arch(std::string_view text, std::string_view field);  // throws kUnsupported on others

struct GemmSpec {
  Problem problem;
  Tile tile;
  auto operator<=>(const GemmSpec&) const = default;
};

// A cast of BF16 or FP32 to FP8 with one scale per block: value ~ fp8 * scale.
enum class QuantizeInput : std::uint8_t { kBf16, kF32 };
enum class ScaleGranularity : std::uint8_t { k1x128, k128x128 };
struct QuantizeSpec {
  QuantizeInput in = QuantizeInput::kBf16;
  Fp8Type out = Fp8Type::kE4m3;
  ScaleGranularity granularity = ScaleGranularity::k1x128;
  ScaleMajor scale_major = ScaleMajor::kRow;  // 128x128: kRow only
  bool power_of_two = false;                  // scales rounded up to a power of two
  bool two_way = false;                       // also the cast of the transposed matrix; kBf16 only
  auto operator<=>(const QuantizeSpec&) const = default;
};
void validate(const QuantizeSpec& spec);  // throws Error{kInvalidArgument}
// Every one that validate() accepts, each once: there are few, and no shape is part of them.
std::vector<QuantizeSpec> all_casts();

// Kernels for checking on the device, used by `kiln run --check` and the GPU tests: a fill with
// deterministic, roughly normal BF16 values, and a plain GEMM in FP32/FP64 that compares itself
// with a given D (templates/check.cuh).
struct FillSpec {
  auto operator<=>(const FillSpec&) const = default;
};
struct ReferenceSpec {
  // Types, scaling and sfa_major count; the rest is taken at run time, where reference_of() puts
  // fixed values.
  Problem problem;
  auto operator<=>(const ReferenceSpec&) const = default;
};
// What checks a problem. One kernel does for any sizes and any layout, group by group, so problems
// that agree in what counts get equal specs.
ReferenceSpec reference_of(const Problem& problem);

using AnyKernel = std::variant<GemmSpec, QuantizeSpec, FillSpec, ReferenceSpec>;

// Everything that decides a kernel's code: compared by value in memory, digested on disk. The SM
// count is not part of it: kernels read gridDim, so one cubin serves every Hopper part.
struct KernelSpec {
  AnyKernel kernel;
  Arch arch;
  auto operator<=>(const KernelSpec&) const = default;
};
std::string describe(const KernelSpec& spec);  // one line for logs and `kiln cache list`

// How the kernel must be launched; grid size is the launcher's business.
struct LaunchShape {
  std::int32_t threads = 0;
  std::int32_t cluster = 1;  // CTAs per cluster, along grid x
  std::int64_t dynamic_smem_bytes = 0;
  std::int32_t param_bytes = 0;  // size of the single __grid_constant__ struct parameter
  auto operator<=>(const LaunchShape&) const = default;
};

struct Source {
  std::string program_name;  // spells the shape; diagnostics start with it
  std::string entry;         // extern "C" name of the kernel
  std::string text;          // named constants, one include, the entry
  std::vector<std::pair<std::string, std::string>> constants;  // as rendered, in order
  LaunchShape launch;
  Arch arch;
};

// Throws Error{kInvalidArgument} for an illegal spec.
Source render(const KernelSpec& spec);

// The embedded template files, by file name, sorted: given to NVRTC as in-memory headers and part
// of every cache key.
struct TemplateFile {
  std::string_view name;
  std::string_view text;
};
std::span<const TemplateFile> template_files();

}  // namespace kiln::jit
