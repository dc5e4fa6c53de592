// Proof that the simulator finds what it is for: faults put into the templates, one at a time, and
// what must be said of each. KILN_SIM_TABLE=1 prints in how many of the seeds each was found.
#include <cstdio>
#include <cstdlib>

#include "tests/sim/sim_cases.h"
#include "tests/sim/sim_support.h"

namespace kiln::test {
namespace {

constexpr std::uint64_t kMostSeeds = 50;

struct Fault {
  const char* name;
  const char* file;
  const char* right;  // text that the template holds exactly once
  const char* wrong;
  const char* problem;                 // of all_cases()
  std::vector<const char*> diagnoses;  // one of them must be in every message
};

// Barriers and phases.
const std::vector<Fault> kBarrierFaults{
    {"consumers wait with the wrong parity",
     "gemm_multiply.cuh",
     "if (!state.is_full) wait(c.smem + kSmem.full + state.ring.stage * 8, state.ring.phase);",
     "if (!state.is_full) wait(c.smem + kSmem.full + state.ring.stage * 8, state.ring.phase ^ 1);",
     "dense 1d2d: tails",
     {"read too early", "deadlock", "nothing orders the two"}},
    {"a stage is taken for full when it is not",
     "gemm_multiply.cuh",
     "mbarrier_look(full, state.ring.phase)",
     "mbarrier_look(full, state.ring.phase ^ 1)",
     "dense 1d2d: tails",
     {"read too early", "deadlock", "nothing orders the two", "overwritten too early"}},
    {"what was seen of one stage is believed of another",
     "gemm.cuh",
     "    state.is_full = false;\n",
     "",
     "dense 1d2d: four parts, tails",
     {"read too early", "deadlock", "nothing orders the two", "wrong result",
      "overwritten too early"}},
    {"the producer waits with the wrong parity",
     "gemm_produce.cuh",
     "wait(smem + kSmem.empty + ring.stage * 8, ring.phase ^ 1);\n      if (step",
     "wait(smem + kSmem.empty + ring.stage * 8, ring.phase);\n      if (step",
     "dense 1d2d: tails",
     {"deadlock"}},
    {"one warp does not arrive",
     "gemm_multiply.cuh",
     "if (c.lane == 0) mbarrier_arrive(empty);",
     "if (c.lane == 0 && c.warp != 3) mbarrier_arrive(empty);",
     "dense 1d2d: tails",
     {"1 of 8 arrivals and 0 bytes are missing"}},
    {"a barrier expects one arrival too few",
     "gemm.cuh",
     "kPartConsumers * 4 * kSharers);",
     "kPartConsumers * 4 * kSharers - 1);",
     "dense 1d2d: tails",
     {"overwritten too early", "arrives too often", "deadlock", "read too early",
      "nothing orders the two"}},
    {"expect-tx counts too few bytes",
     "gemm_produce.cuh",
     "kFixedBytes + l.rows * kBlockK",
     "kFixedBytes + l.rows * kBlockK - 128",
     "dense 1d2d: tails",
     {"the byte count of expect-tx is too small"}},
    {"expect-tx counts too many bytes",
     "gemm_produce.cuh",
     "kFixedBytes + l.rows * kBlockK",
     "kFixedBytes + l.rows * kBlockK + 128",
     "dense 1d2d: tails",
     {"0 of 4 arrivals and 128 bytes are missing"}},
    {"barriers are initialised without a fence",
     "gemm.cuh",
     "  fence_mbarrier_init();\n}\n",
     "}\n",
     "dense 1d2d: tails",
     {"without fence.mbarrier_init"}},
    {"a lane may look at a barrier after the phase went on",
     "gemm_produce.cuh",
     "      __syncwarp();  // a lane that looked later could find the phase after next\n",
     "",
     "contiguous: ends",
     {"waits for ever"}},
    {"a warp hands on a stage that not all its lanes have seen",
     "gemm.cuh",
     "    __syncwarp();\n    if constexpr (kHoldsA) state.is_full",
     "    if constexpr (kHoldsA) state.is_full",
     "masked: M-major scales",
     {"deadlock", "read too early", "nothing orders the two", "waits for ever"}},
    {"the last stage of the work is not announced",
     "gemm_produce.cuh",
     "ring.stage * 8, 1 + kScaleArrivals);",
     "ring.stage * 8, kScaleArrivals);",
     "dense 1d2d: tails",
     {"1 of 4 arrivals and 0 bytes are missing"}},
};

// Asynchronous reads and writes.
const std::vector<Fault> kAsyncFaults{
    {"a stage is released under its WGMMAs",
     "gemm_multiply.cuh",
     "    finish_mma(sum);\n    if constexpr (kScaleTerms) keep(products);\n"
     "    const bool last_wave = wave + 1 == (kRowGroups && !kFirst ? waves : kWaves);\n"
     "    if (last_wave) next_stage(c, state);\n",
     "    next_stage(c, state);\n    finish_mma(sum);\n",
     "dense 1d2d: tails",
     {"overwritten too early", "read too early: operand", "wrong result",
      "nothing orders the two"}},
    {"accumulators are read under their WGMMAs",
     "gemm_mma.cuh",
     "  wgmma_wait_group<0>();\n",
     "",
     "dense 1d2d: tails",
     {"a register of a WGMMA in flight"}},
    {"A is loaded out of a stage that nobody saw full",
     "gemm_multiply.cuh",
     "if (state.is_full) hold_a(c, state);",
     "hold_a(c, state);",
     "dense 1d2d: A in registers",
     {"read too early", "nothing orders the two"}},
    {"registers that hold A are written under its WGMMAs",
     "gemm_multiply.cuh",
     "    if (last) look_ahead(c, state);\n",
     "    if (last) look_ahead(c, state);\n    state.held[0][0] += 1;\n",
     "dense 1d2d: A in registers",
     {"a register that holds A of a WGMMA was written"}},
    {"wgmma without its fence",
     "gemm_mma.cuh",
     "  keep(sum);\n  wgmma_fence();\n",
     "  keep(sum);\n",
     "dense 1d2d: tails",
     {"wgmma without wgmma.fence"}},
    {"a store reads what was not fenced",
     "gemm_store.cuh",
     "    fence_proxy_async();\n    __syncwarp();\n    if (c.lane == 0) store_box",
     "    __syncwarp();\n    if (c.lane == 0) store_box",
     "dense 1d2d: tails",
     {"missing proxy fence"}},
    {"C comes where ordinary stores were not fenced",
     "gemm_store.cuh",
     "    fence_proxy_async();  // C may come into this slot next\n",
     "",
     "contiguous: accumulates",
     {"missing proxy fence"}},
    {"a store does not wait for the lanes that stage it",
     "gemm_store.cuh",
     "    fence_proxy_async();\n    __syncwarp();\n    if (c.lane == 0) store_box",
     "    fence_proxy_async();\n    if (c.lane == 0) store_box",
     "dense 1d2d: tails",
     {"overwritten too early", "missing proxy fence", "where nothing was ever written",
      "nothing orders the two"}},
    {"a staging slot is used again too early",
     "gemm_store.cuh",
     "cp_async_bulk_wait_group_read<kSlots - 1>();",
     "cp_async_bulk_wait_group_read<kSlots>();",
     "dense 1d2d: two waves, whole rounds",
     {"overwritten too early", "nothing orders the two"}},
    {"C is requested over a store",
     "gemm_store.cuh",
     "  cp_async_bulk_wait_group_read<0>();\n#pragma unroll\n  for (u32 i = 0; i < kSlots",
     "#pragma unroll\n  for (u32 i = 0; i < kSlots",
     "dense 1d2d: accumulates BF16",
     {"overwritten too early", "nothing orders the two"}},
    {"a CTA ends under its stores",
     "gemm.cuh",
     "    cp_async_bulk_wait_group_read<0>();  // shared memory outlives",
     "    ;  //",
     "dense 1d2d: tails",
     {"ends while its bulk stores still read"}},
    {"row scales are read before they have landed",
     "gemm_produce.cuh",
     "cp_async_wait_group<kSfaGroups - 2>();",
     "cp_async_wait_group<1>();",
     "dense 1d2d: tails",
     {"read too early"}},
    {"split scales are not fenced",
     "gemm_scale_terms.cuh",
     "      fence_proxy_async();  // WGMMA",
     "      // WGMMA",
     "dense 1d1d: tails",
     {"missing proxy fence"}},
    {"scales are split before they came",
     "gemm_scale_terms.cuh",
     "      wait(smem + kSmem.scales + ring.stage * 8, ring.phase);\n",
     "",
     "dense 1d1d: reduces, split scales",
     {"is being filled", "was never written", "nothing orders the two", "read too early",
      "deadlock", "overwritten too early", "arrives"}},
};

// Ordinary accesses of several threads that nothing orders.
const std::vector<Fault> kRaceFaults{
    {"column scales are read after the stage was released",
     "gemm_multiply.cuh",
     "if (last_wave) next_stage(c, state);\n    if constexpr (kScaleTerms) {\n      promote",
     "if (last_wave) next_stage(c, state);\n    if (kColumnScales) load_column_scales(columns, c, "
     "stage, 0, "
     "site);\n    if constexpr (kScaleTerms) {\n      promote",
     "dense 1d1d: accumulates",
     {"nothing orders the two"}},
    {"rows are copied before all lanes have staged them",
     "gemm_store.cuh",
     "    __syncwarp();\n    if (at.valid != 0) copy_valid_rows",
     "    if (at.valid != 0) copy_valid_rows",
     "contiguous: ends",
     {"nothing orders the two", "was never written"}},
    {"the group table is read before it is made",
     "gemm_groups.cuh",
     "      table.first_partial.set(p.groups, partial);\n    }\n  }\n  __syncthreads();",
     "      table.first_partial.set(p.groups, partial);\n    }\n  }",
     "contiguous: ends",
     {"nothing orders the two", "was never written"}},
    {"row scales are handed on before all lanes have written them",
     "gemm_produce.cuh",
     "    __syncwarp();\n    if (lane % 32 == 0) mbarrier_arrive",
     "    if (lane % 32 == 0) mbarrier_arrive",
     "dense 1d2d: tails",
     {"nothing orders the two", "was never written"}},
    {"lanes stage D before the slot was found free",
     "gemm_store.cuh",
     "      if (c.lane == 0) wait_slot_free();\n      __syncwarp();\n",
     "      if (c.lane == 0) wait_slot_free();\n",
     "dense 1d2d: FP32, wide tile",
     {"nothing orders the two", "overwritten too early"}},
    {"a tile is announced in a stage that is still in use",
     "gemm_produce.cuh",
     "wait(smem + kSmem.empty + ring.stage * 8, ring.phase ^ 1);\n      if (step",
     "if (step == 0) write_tile(smem + kSmem.site + ring.stage * kSiteBytes, tile);\n      "
     "wait(smem + kSmem.empty + ring.stage * 8, ring.phase ^ 1);\n      if (step",
     "contiguous: labels",
     {"nothing orders the two"}},
    {"a stage is full before all warps have split their scales",
     "gemm_produce.cuh",
     "(kScaleTerms ? kTermWarps : 0)",
     "(kScaleTerms ? kTermWarps - 1 : 0)",
     "dense 1d1d: reduces, split scales",
     {"nothing orders the two", "was never", "missing proxy fence", "overwritten too early",
      "arrive", "read too early"}},
    {"split scales are handed on before all lanes have written them",
     "gemm_scale_terms.cuh",
     "      __syncwarp();\n",
     "",
     "dense 1d1d: tails",
     {"nothing orders the two", "was never", "missing proxy fence"}},
};

// Addresses, registers, clusters and values.
const std::vector<Fault> kOtherFaults{
    {"a warpgroup that passes a tile on believes what it saw before it",
     "gemm.cuh",
     "    if constexpr (kHoldsA) state.is_full = false;  // it holds nothing\n",
     "",
     "masked: A in registers",
     {"read too early", "nothing orders the two", "overwritten too early", "deadlock",
      "arrives too often"}},
    {"each lane loads A when it has seen the stage full",
     "gemm_multiply.cuh",
     "__all_sync(0xffffffffu, is_full)",
     "is_full",
     "dense 1d2d: A in registers",
     {"the lanes of a warp do different things", "deadlock"}},
    {"A in registers is not where the swizzle put it",
     "gemm.cuh",
     "(c.lane / 16 ^ c.lane % 8) * 16",
     "c.lane / 16 * 16",
     "dense 1d2d: A in registers",
     {"wrong result"}},
    {"all passes multiply the same columns",
     "gemm_multiply.cuh",
     "    at.b += pass * (kMmaN * kBlockK >> 4);\n",
     "",
     "dense 1d2d: A in registers",
     {"wrong result"}},
    {"all passes have the scales of the first",
     "gemm_multiply.cuh",
     "    at.column_terms += pass * (kMmaN * kTermBytes >> 4);\n",
     "",
     "dense 1d1d: two passes, BF16",
     {"wrong result"}},
    {"all passes are stored in the same columns",
     "gemm_store.cuh",
     "piece % kPasses * kMmaN",
     "0",
     "dense 1d2d: A in registers",
     {"wrong result"}},
    {"the descriptor says another swizzle",
     "gemm_mma.cuh",
     "kSwizzle128 = 1ull << 62",
     "kSwizzle128 = 2ull << 62",
     "dense 1d2d: tails",
     {"was written with one of 128"}},
    {"the descriptor says another stride",
     "gemm_mma.cuh",
     "static_cast<u64>(kStrideBytes >> 4)",
     "static_cast<u64>(kStrideBytes >> 5)",
     "dense 1d2d: tails",
     {"the stride of the descriptor"}},
    {"the descriptor of split scales says another stride",
     "gemm_mma.cuh",
     "static_cast<u64>(8 * kTermBytes >> 4)",
     "static_cast<u64>(8 * kTermBytes >> 5)",
     "dense 1d1d: tails",
     {"wrong result"}},
    {"K advances by twice its step",
     "gemm_mma.cuh",
     "a_of(k), matrix_descriptor(b + k * 2)",
     "a_of(k), matrix_descriptor(b + k * 4)",
     "dense 1d2d: tails",
     {"ends in", "wrong result", "outside", "the stride of"}},
    {"the next stage is multiplied from where this one lies",
     "gemm_multiply.cuh",
     "  if constexpr (kAimsAhead) aim(c, state);\n",
     "",
     "dense 1d1d: tails",
     {"wrong result", "nothing orders the two", "overwritten too early", "read too early"}},
    {"D is staged without its swizzle",
     "smem_layout.cuh",
     "return flat ^ (((flat >> 7) & (chunk_bytes / 16 - 1)) << 4);",
     "return flat;",
     "dense 1d2d: tails",
     {"wrong result"}},
    {"consumers ask for more registers than there are",
     "smem_layout.cuh",
     "warpgroups == 3 ? 160 : 232",
     "warpgroups == 3 ? 160 : 240",
     "dense 1d2d: tails",
     {"waits in setmaxnreg for 240"}},
    {"a CTA of a cluster ends before its peers",
     "gemm.cuh",
     "    barrier_cluster_arrive();\n    barrier_cluster_wait();\n",
     "",
     "dense 1d2d: cluster in M",
     {"has ended"}},
    {"a stage is handed back to one CTA only",
     "gemm_multiply.cuh",
     "if (c.releases) mbarrier_arrive_cluster(empty, c.lane);",
     "if (c.lane == 0) mbarrier_arrive_cluster(empty, 0);",
     "dense 1d2d: cluster in N",
     {"deadlock", "arrives too often"}},
    {"a multicast leaves a CTA out",
     "gemm_produce.cuh",
     "kColumn = (1u << kClusterM) - 1;",
     "kColumn = 1;",
     "dense 1d2d: cluster in M",
     {"deadlock", "expect-tx is too small"}},
    {"the scale of the neighbouring block",
     "gemm_produce.cuh",
     "const u32 scale_column = s.column / 128 + column;",
     "const u32 scale_column = s.column / 128 + column + 1;",
     "dense 1d2d: tails",
     {"wrong result"}},
    {"descriptors have the CTA's rank in their stride",
     "gemm_shape.cuh",
     "(address & 0x3FFFF) >> 4",
     "address >> 4",
     "dense 1d1d: cluster",
     {"was never filled", "wrong result"}},
    {"D is staged in another CTA's shared memory",
     "gemm.cuh",
     "c.slots = smem + kSmem.d",
     "c.slots = (smem ^ (1u << 24)) + kSmem.d",
     "dense 1d1d: cluster",
     {"reached through mapa"}},
    {"a tile has the next group's rows",
     "schedule.cuh",
     "            table.end(group),\n            group,\n",
     "            table.end(group + 1),\n            group + 1,\n",
     "contiguous: labels",
     {"wrong result"}},
    {"both CTAs take the first column of a lone tile row",
     "schedule.cuh",
     "(column.lone ? cta_m : 0)",
     "0",
     "masked: cluster",
     {"wrong result"}},
    {"a lone tile's B goes to the other CTA, too",
     "gemm_produce.cuh",
     "if (kSize.lone_rows != 0 && kRowGroups && l.lone) {",
     "if (false) {",
     "masked: cluster",
     {"wrong result"}},
    {"rows of the next group are written",
     "gemm_store.cuh",
     "(at.valid >> row & 1) == 0 || column >= kN",
     "column >= kN",
     "contiguous: ends",
     {"wrong result"}},
    {"loads do not wait for the launch before",
     "gemm.cuh",
     "  griddepcontrol_wait();\n  if",
     "  if",
     "dense 1d2d: tails",
     {"before griddepcontrol.wait"}},
    {"the first load does not wait for the launch before",
     "gemm.cuh",
     "  griddepcontrol_wait();\n  const Site first",
     "  const Site first",
     "dense 1d2d: tails",
     {"before griddepcontrol.wait"}},
    {"the first load is issued twice",
     "gemm_produce.cuh",
     "if (!has_b) load_b(",
     "load_b(",
     "dense 1d2d: tails",
     {"overwritten too early", "the byte count of expect-tx is too small"}},
    {"scales are read far outside",
     "gemm_produce.cuh",
     "sfb += slice * p.sfb_group_stride + scale_column * p.ld_sfb;",
     "sfb += (1ll << 40) + scale_column * p.ld_sfb;",
     "dense 1d2d: tails",
     {"an ordinary access outside device memory"}},
    {"a TMA load into the wrong place",
     "gemm_produce.cuh",
     "const u32 a = smem + kSmem.a + stage * kSmem.a_stage_bytes;",
     "const u32 a = smem + kSmem.total + stage * kSmem.a_stage_bytes;",
     "dense 1d2d: tails",
     {"is outside the"}},
    {"the owner of rows does not say that it has read the parts",
     "gemm_parts.cuh",
     "if (tiles > 0 && c.lane < kClusterK && c.lane != owner)",
     "if (false)",
     "dense 1d2d: parts in a cluster",
     {"deadlock"}},
    {"parts are sent over those of the last tile",
     "gemm_parts.cuh",
     "    wait_cluster(empty, phase ^ 1);\n",
     "",
     "dense 1d2d: parts in a cluster",
     {"after that CTA has ended", "overwritten too early", "read too early", "more bytes arrived",
      "wrong result", "in flight", "deadlock"}},
    {"parts of a CTA do not meet before they are written",
     "gemm_parts.cuh",
     "  bar_sync<kPartsBarrier, kConsumers * 128>();  // part 0",
     "  // part 0",
     "dense 1d2d: eight rows",
     {"nothing orders the two", "wrong result"}},
    {"the last part is not added",
     "gemm_parts.cuh",
     "part < kWarpgroupsK; ++part) {",
     "part < kWarpgroupsK - 1; ++part) {",
     "dense 1d2d: eight rows",
     {"wrong result"}},
    {"a part of a cluster is added twice",
     "gemm_parts.cuh",
     "      next += kSmem.gathered_bytes;\n",
     "",
     "dense 1d2d: four parts, tails",
     {"wrong result"}},
    {"a store in the place of a reduction",
     "gemm_store.cuh",
     "} else if constexpr (kReduce) {",
     "} else if constexpr (false) {",
     "dense 1d2d: reduces",
     {"wrong result"}},
};

std::string faulty_text(const Fault& fault) {
  std::string text;
  for (const jit::TemplateFile& file : jit::template_files())
    if (file.name == fault.file) text = file.text;
  const std::size_t at = text.find(fault.right);
  INFO(fault.name << ": " << fault.file << " must hold once: " << fault.right);
  REQUIRE(at != std::string::npos);
  REQUIRE(text.find(fault.right, at + 1) == std::string::npos);
  return text.replace(at, std::string(fault.right).size(), fault.wrong);
}

GroupedCase case_of(const std::string& name) {
  for (const NamedCase& c : all_cases())
    if (c.name == name) return c.test;
  FAIL("no case is called " << name);
  return {};
}

bool is_diagnosed(const Fault& fault, const std::string& message) {
  for (const char* diagnosis : fault.diagnoses)
    if (message.find(diagnosis) != std::string::npos) return true;
  return false;
}

// Stops at the first find, unless the table is asked for.
void check_found(const Fault& fault) {
  INFO(fault.name);
  const char* const asked = std::getenv("KILN_SIM_TABLE");
  const bool table = asked != nullptr && *asked == '1';
  Simulator simulator({{fault.file, faulty_text(fault)}});
  SimCase sim_case(simulator, case_of(fault.problem));
  std::uint64_t found = 0, first = 0;
  std::string message;
  for (std::uint64_t seed = 1; seed <= kMostSeeds && (table || found == 0); ++seed) {
    const std::string said = sim_case.launch(seed);
    if (said.empty()) continue;
    if (++found == 1) {
      first = seed;
      message = said;
    }
    INFO(said);
    CHECK(is_diagnosed(fault, said));
  }
  if (table)
    std::printf("| %s | %llu of %llu | %llu |\n%s\n\n", fault.name,
                static_cast<unsigned long long>(found), static_cast<unsigned long long>(kMostSeeds),
                static_cast<unsigned long long>(first), message.substr(0, 600).c_str());
  CHECK(found > 0);
}

void check_all(const std::vector<Fault>& faults) {
  KILN_REQUIRE_SIMULATOR_OR_SKIP(simulator);
  (void)simulator;
  for (const Fault& fault : faults) check_found(fault);
}

}  // namespace

TEST_CASE("faults of barriers and phases are found and named", "[sim]") {
  check_all(kBarrierFaults);
}
TEST_CASE("faults of asynchronous reads and writes are found and named", "[sim]") {
  check_all(kAsyncFaults);
}
TEST_CASE("faults of ordinary accesses are found and named", "[sim]") { check_all(kRaceFaults); }
TEST_CASE("faults of addresses, registers, clusters and values are found and named", "[sim]") {
  check_all(kOtherFaults);
}

}  // namespace kiln::test
