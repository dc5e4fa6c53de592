#include "jit/source.h"

#include <cstdlib>
#include <fstream>
#include <functional>
#include <set>
#include <sstream>

#include "jit/error.h"
#include "templates/params.cuh"
#include "tests/support/catch.h"

using namespace kiln;
using namespace kiln::jit;

namespace {

GemmSpec gemm() {
  return {.problem = {.n = 7168, .k = 2048}, .tile = {128, 128, 2, 1, 4, 1, 1, 8}};
}

GemmSpec row_groups(Layout layout) {
  GemmSpec spec = gemm();
  spec.problem.layout = layout;
  spec.problem.group_form = default_group_form(layout);
  spec.problem.groups = 8;
  spec.problem.alignment = layout == Layout::kGroupedContiguous ? 128 : 0;
  return spec;
}

GemmSpec weight_gradient(Layout layout) {
  return {.problem = {.layout = layout,
                      .scaling = Scaling::k1d1d,
                      .n = 7168,
                      .k = 4096,
                      .out = OutputType::kF32,
                      .sfa_major = ScaleMajor::kM,
                      .accumulate = true,
                      .group_form = default_group_form(layout),
                      .groups = layout == Layout::kDense ? 1 : 8},
          .tile = {128, 112, 2, 1, 4, 1, 1, 8}};
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace

TEST_CASE("a rendered program is the golden file, byte for byte", "[source]") {
  // KILN_UPDATE_GOLDEN=1 rewrites the files after a wanted change; the diff is then reviewed.
  const std::vector<std::pair<std::string, KernelSpec>> cases{
      {"gemm_dense.cu", {gemm(), {}}},
      {"gemm_contiguous.cu", {row_groups(Layout::kGroupedContiguous), {}}},
      {"gemm_masked.cu", {row_groups(Layout::kGroupedMasked), {}}},
      {"gemm_grouped_k.cu", {weight_gradient(Layout::kGroupedK), {}}},
      {"quantize_rows.cu", {QuantizeSpec{}, {}}},
      {"quantize_blocks.cu", {QuantizeSpec{.granularity = ScaleGranularity::k128x128}, {}}},
  };
  for (const auto& [file, spec] : cases) {
    const std::string path = std::string(KILN_GOLDEN_DIR) + "/" + file;
    const std::string text = render(spec).text;
    if (std::getenv("KILN_UPDATE_GOLDEN") != nullptr) std::ofstream(path, std::ios::binary) << text;
    INFO(path);
    CHECK(text == read_file(path));
  }
}

TEST_CASE("every field of a GEMM's spec changes the rendered program and the entry's name",
          "[source]") {
  const std::vector<std::function<void(GemmSpec&)>> changes{
      [](GemmSpec& s) { s.problem.n = 4096; },
      [](GemmSpec& s) { s.problem.k = 4096; },
      [](GemmSpec& s) { s.problem.a = Fp8Type::kE5m2; },
      [](GemmSpec& s) { s.problem.b = Fp8Type::kE5m2; },
      [](GemmSpec& s) {
        s.problem.out = OutputType::kF32;
        s.tile.stages = 3;
      },
      [](GemmSpec& s) {
        s.problem.out = OutputType::kF32;
        s.tile.stages = 3;
        s.problem.accumulate = true;
      },
      [](GemmSpec& s) { s.problem.sfa_major = ScaleMajor::kM; },
      [](GemmSpec& s) {
        s.tile.block_m = 256;
        s.tile.stages = 3;
      },
      [](GemmSpec& s) { s.tile.block_n = 96; },
      [](GemmSpec& s) {
        s.tile.warpgroups_m = 1;
        s.tile.warpgroups_n = 2;
      },
      [](GemmSpec& s) { s.tile.stages = 3; },
      [](GemmSpec& s) { s.tile.cluster_m = 2; },
      [](GemmSpec& s) { s.tile.cluster_n = 2; },
      [](GemmSpec& s) { s.tile.raster_group = 16; },
  };
  std::set<std::string> texts{render({gemm(), {}}).text}, names{render({gemm(), {}}).entry};
  for (const auto& change : changes) {
    GemmSpec spec = gemm();
    change(spec);
    const Source source = render({spec, {}});
    CHECK(texts.insert(source.text).second);
    CHECK(names.insert(source.entry).second);
  }
}

TEST_CASE("every layout and form of groups is a program of its own", "[source]") {
  std::vector<GemmSpec> specs{gemm(),
                              row_groups(Layout::kGroupedContiguous),
                              row_groups(Layout::kGroupedContiguous),
                              row_groups(Layout::kGroupedMasked),
                              row_groups(Layout::kGroupedMasked),
                              weight_gradient(Layout::kDense),
                              weight_gradient(Layout::kGroupedK),
                              weight_gradient(Layout::kGroupedK)};
  specs[2].problem.group_form = GroupForm::kLabels;
  specs[4].problem.groups = 65;  // a larger table
  specs[7].problem.group_form = GroupForm::kPacked;
  std::set<std::string> texts, names;
  for (const GemmSpec& spec : specs) {
    const Source source = render({spec, {}});
    CHECK(texts.insert(source.text).second);
    CHECK(names.insert(source.entry).second);
    CHECK(source.entry.find(name(spec.problem.layout)) != std::string::npos);
    const bool packed = spec.problem.group_form == GroupForm::kPacked;
    CHECK(source.launch.param_bytes ==
          static_cast<int>(packed ? sizeof(device::PackedGemmParams) : sizeof(device::GemmParams)));
  }
}

TEST_CASE("what a kernel takes at run time does not change its program", "[source]") {
  for (const GemmSpec& spec :
       {row_groups(Layout::kGroupedContiguous), row_groups(Layout::kGroupedMasked),
        weight_gradient(Layout::kDense), weight_gradient(Layout::kGroupedK)}) {
    GemmSpec other = spec;
    if (is_grouped(other.problem)) other.problem.groups = 3;
    if (other.problem.alignment != 0) other.problem.alignment = 1;
    if (other.problem.scaling == Scaling::k1d1d) other.problem.k += 128;
    other.problem = canonical(other.problem);
    GemmSpec first = spec;
    first.problem = canonical(spec.problem);
    CHECK(render({first, {}}).text == render({other, {}}).text);
  }
}

TEST_CASE("the parameters of every kernel are within what the driver takes", "[source]") {
  CHECK(sizeof(device::GemmParams) % 64 == 0);
  CHECK(sizeof(device::PackedGemmParams) <= 32'764);
}

TEST_CASE("every field of a cast changes the rendered program and the entry's name", "[source]") {
  std::set<std::string> texts, names;
  for (const QuantizeSpec& cast : all_casts()) {
    const Source source = render({cast, {}});
    texts.insert(source.text);
    names.insert(source.entry);
  }
  CHECK(texts.size() == all_casts().size());
  CHECK(names.size() == all_casts().size());
}

TEST_CASE("the list of all casts has what validate() accepts, and nothing else", "[source]") {
  constexpr int kValues = 8;  // of each enumeration, more than it has
  const std::vector<QuantizeSpec> casts = all_casts();
  const std::set<QuantizeSpec> listed(casts.begin(), casts.end());
  std::set<QuantizeSpec> accepted;
  for (int i = 0; i < kValues * kValues * kValues * kValues * 4; ++i) {
    int rest = i;
    const auto draw = [&rest](int values) {
      const int value = rest % values;
      rest /= values;
      return value;
    };
    QuantizeSpec spec;
    spec.in = static_cast<QuantizeInput>(draw(kValues));
    spec.out = static_cast<Fp8Type>(draw(kValues));
    spec.granularity = static_cast<ScaleGranularity>(draw(kValues));
    spec.scale_major = static_cast<ScaleMajor>(draw(kValues));
    spec.power_of_two = draw(2) == 1;
    spec.two_way = draw(2) == 1;
    try {
      validate(spec);
      accepted.insert(spec);
    } catch (const Error&) {
    }
  }
  CHECK(listed.size() == casts.size());
  CHECK(listed == accepted);
}

TEST_CASE("problems whose types and scales agree are checked by one reference", "[source]") {
  const Problem first = gemm().problem;
  const auto varied = [&](auto&& change) {
    Problem other = first;
    change(other);
    return render({reference_of(other), {}}).text;
  };
  const std::string text = render({reference_of(first), {}}).text;
  CHECK(text == render({ReferenceSpec{first}, {}}).text);
  Problem elsewhere = first;
  elsewhere.n *= 2;
  elsewhere.k *= 2;
  elsewhere.accumulate = !first.accumulate;
  elsewhere.layout = Layout::kGroupedMasked;
  elsewhere.groups = 8;
  elsewhere.batch_invariant = true;
  CHECK(reference_of(elsewhere) == reference_of(first));
  CHECK(varied([](Problem& p) { p.a = Fp8Type::kE5m2; }) != text);
  CHECK(varied([](Problem& p) { p.b = Fp8Type::kE5m2; }) != text);
  CHECK(varied([](Problem& p) { p.out = OutputType::kF32; }) != text);
  CHECK(varied([](Problem& p) { p.scaling = Scaling::k1d1d; }) != text);
  CHECK(varied([](Problem& p) { p.sfa_major = ScaleMajor::kM; }) != text);
}

TEST_CASE("the entry is an identifier and the program's name spells the shape", "[source]") {
  const Source source = render({gemm(), {}});
  CHECK(source.program_name == source.entry + ".cu");
  CHECK(source.entry.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") ==
        std::string::npos);
  for (const char* part : {"dense", "1d2d", "n7168", "k2048", "e4m3", "bf16", "128x128"})
    CHECK(source.entry.find(part) != std::string::npos);
}

TEST_CASE("the launch shape follows from the tile", "[source]") {
  GemmSpec spec = gemm();
  spec.tile.cluster_n = 2;
  const LaunchShape launch = render({spec, {}}).launch;
  CHECK(launch.threads == 384);
  CHECK(launch.cluster == 2);
  CHECK(launch.dynamic_smem_bytes == smem_bytes(spec.tile, spec.problem));
  CHECK(launch.param_bytes == sizeof(device::GemmParams));
}

TEST_CASE("illegal specs are not rendered", "[source]") {
  GemmSpec spec = gemm();
  spec.problem.k = 8;
  CHECK_THROWS_AS(render({spec, {}}), Error);
  spec = gemm();
  spec.tile.stages = 32;
  CHECK_THROWS_AS(render({spec, {}}), Error);
  CHECK_THROWS_AS(render({QuantizeSpec{.granularity = ScaleGranularity::k128x128,
                                       .scale_major = ScaleMajor::kM},
                          {}}),
                  Error);
  try {
    render({gemm(), Arch{100}});
    FAIL("rendered for sm_100a");
  } catch (const Error& error) {
    CHECK(error.status() == Status::kUnsupported);
  }
  CHECK_THROWS_AS(parse_arch("sm_80", "--arch"), Error);
  CHECK(parse_arch("sm_90a", "--arch") == Arch{90});
}
