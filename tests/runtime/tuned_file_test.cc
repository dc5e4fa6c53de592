// Files of tuned tiles: what is written is read, and what is damaged is refused or left out.
#include <algorithm>
#include <fstream>
#include <string>

#include "tests/runtime/tuned_support.h"

namespace kiln::test {

TEST_CASE("a tuned file that is written and loaded is the same, sorted and a line an entry",
          "[tuned]") {
  jit::Problem masked = dense(7168, 2048);
  masked.layout = jit::Layout::kGroupedMasked;
  masked.group_form = jit::GroupForm::kRows;
  masked.groups = 32;
  TunedFile file = file_of({entry(contiguous(8)), entry(masked), entry(dense(512)), entry()});
  file.method = "with \"quotes\", a \\ and a line\nbreak";
  const std::string text = runtime::to_text(file);
  const TunedTable table = TunedTable::load(text, "x");
  CHECK(table.num_rejected() == 0);
  CHECK(table.first_rejection().empty());
  CHECK(table.file() != file);
  std::sort(file.entries.begin(), file.entries.end(),
            [](const auto& a, const auto& b) { return a.problem < b.problem; });
  CHECK(table.file() == file);
  CHECK(runtime::to_text(table.file()) == text);
  CHECK(std::count(text.begin(), text.end(), '\n') == 10 + 1 + 4 + 1);
  const std::string empty = runtime::to_text(file_of({}));
  CHECK(TunedTable::load(empty, "x").file() == file_of({}));
}

TEST_CASE("the table that the library is built with is whole", "[tuned]") {
  const TunedTable table = TunedTable::load(runtime::builtin_tuned_text(), "built in");
  INFO(table.first_rejection());
  CHECK(table.num_rejected() == 0);
  CHECK(table.file().gpu == "NVIDIA H200");
  CHECK(table.file().num_sms == 132);
  std::ifstream shipped(KILN_TUNED_DIR "/nvidia-h200.json");
  const std::string text{std::istreambuf_iterator<char>(shipped), {}};
  CHECK(text == runtime::builtin_tuned_text());
  CHECK(text == runtime::to_text(table.file()));
}

TEST_CASE("a damaged envelope refuses the whole file and says where", "[tuned]") {
  const std::string good = runtime::to_text(file_of({entry()}));
  REQUIRE(refusal(good).empty());
  const struct {
    const char *from, *to, *complaint;
  } cases[] = {
      {"\"format\": 1", "\"format\": 2", "format: is 2, this version reads 1: use a newer library"},
      {"\"format\": 1", "\"format\": 0", "format: must be a whole number from 1"},
      {"\"format\": 1", "\"format\": \"1\"", "format: must be a whole number"},
      {"\"format\": 1", "\"form\": 1", "the key \"format\" is missing"},
      {"\"cuda\"", "\"cudas\"", "unknown key \"cudas\": did you mean \"cuda\"?"},
      {"\"cuda\": \"13.0\"", "\"cuda\": 13.0", "cuda: must be a string"},
      {"\"num_sms\":132", "\"num_sms\":0", "gpu.num_sms: must be a whole number from 1 to 1024"},
      {"\"num_sms\":132", "\"num_sms\":132,\"sm\":90", "gpu: unknown key \"sm\""},
      {"\"driver\"", "\"cuda\"", "the key \"cuda\" appears twice"},
      {"\"entries\": [", "\"entries\": {}, \"x\": [", "unknown key \"x\""},
      {"\"date\": \"2026-01-01\",\n", "", "the key \"date\" is missing"},
  };
  for (const auto& c : cases) {
    INFO(c.from << " -> " << c.to);
    const std::string said = refusal(replaced(good, c.from, c.to));
    INFO(said);
    CHECK(contains(said, c.complaint));
    CHECK(said.starts_with("test.json: "));
  }
  for (const char* text :
       {"", " ", "1", "[]", "null", "{", "{}", "\"x\"", "\xff", "{\"format\":1e999}"})
    CHECK_FALSE(refusal(text).empty());
}

TEST_CASE("a tuned file cut off anywhere is refused", "[tuned]") {
  const std::string good = runtime::to_text(file_of({entry(), entry(contiguous(4))}));
  const std::size_t end = good.find_last_of('}');
  for (std::size_t length = 0; length <= end; ++length) {
    if (!refusal(good.substr(0, length)).empty()) continue;
    FAIL("accepted the first " << length << " bytes");
  }
}

TEST_CASE("a tuned file beyond the limits of size, depth and number is refused", "[tuned]") {
  const std::string good = runtime::to_text(file_of({entry()}));
  const std::string padded = good + std::string((std::size_t{8} << 20) - good.size(), ' ');
  CHECK(refusal(padded).empty());
  CHECK(contains(refusal(padded + " "), "larger than 8.0 MiB"));
  const auto nested = [&](std::size_t depth) {
    return replaced(good, "\"entries\": [",
                    "\"entries\": [" + std::string(depth, '[') + std::string(depth, ']') + ",");
  };
  CHECK(refusal(nested(14)).empty());  // not an entry, but that is the entry's own fault
  CHECK(contains(refusal(nested(15)), "nested deeper than 16 levels"));
  CHECK(contains(refusal(nested(1'000'000)), "nested deeper than 16 levels"));
  const auto many = [&](std::size_t count) {
    std::string list;
    for (std::size_t i = 0; i < count; ++i) list += "{},";
    return replaced(good, "\"entries\": [", "\"entries\": [" + list);
  };
  CHECK(TunedTable::load(many(9'999), "x").num_rejected() == 9'999);
  CHECK(contains(refusal(many(10'000)), "entries: must be an array of 0 to 10000 elements"));
}

TEST_CASE("an entry that breaks a rule is left out and the others stay", "[tuned]") {
  const std::string good = runtime::to_text(file_of({entry(dense(512)), entry(dense(8192))}));
  const struct {
    const char *from, *to, *complaint;
  } cases[] = {
      {"\"n\":512", "\"n\":513", "n must be a multiple of 8"},
      {"\"n\":512", "\"n\":512.0", "n: must be a whole number"},
      {"\"n\":512", "\"n\":8192", "[1]: is an entry for the same problem as an earlier one"},
      {"\"n\":512", "\"n\":1e400", ""},  // no number at all: the whole file
      {"\"n\":512", "\"n\":99999999999999999999", "n: must be a whole number"},
      {"\"n\":512", "\"n\":-8", "n: must be a whole number"},
      {"\"n\":512", "\"n\":512,\"m\":1", "unknown key \"m\""},
      {"\"layout\":\"dense\"", "\"layout\":\"sparse\"", "layout must be one of"},
      {"\"layout\":\"dense\"", "\"layout\":\"grouped_k\"", "\"group_form\" is missing"},
      {"\"layout\":\"dense\"", "\"layout\":\"dense\",\"groups\":2", "groups must be 1"},
      {"\"scaling\":\"1d2d\"", "\"scaling\":\"1d1d\"", "sfa_major must be m"},
      {"\"sfa\":\"row\",", "", "the key \"sfa\" is missing"},
      {"\"accumulate\":false", "\"accumulate\":0", "accumulate: must be true or false"},
      {"\"intervals\":[", "\"intervals\":[1,", "intervals[0]: must be an object"},
      {"\"m_min\":0", "\"m_min\":-1", "m_min: must be a whole number from 0 to 2147483136"},
      {"\"m_max\":64", "\"m_max\":65", "[1].m_min: must lie behind the interval before it"},
      {"\"m_max\":64", "\"m_max\":2147483137", "m_max: must be a whole number"},
      {"\"m_min\":65", "\"m_min\":64", "must lie behind the interval before it, which ends at 64"},
      {"\"measured_m\":64", "\"measured_m\":65", "measured_m: must be a whole number from 0 to 64"},
      {"\"us\":3.25", "\"us\":0", "us: must be a number from"},
      {"\"us\":3.25", "\"us\":-1", "us: must be a number from"},
      {"\"us\":3.25", "\"us\":\"3\"", "us: must be a number from"},
      {"\"us\":3.25,", "", "the key \"us\" is missing"},
      {",\"runner_up_us\":3.5", "", "belong together"},
      {"64x64/1x1/s8/c1x1/r8", "64x64", "must be spelled in full, as 64x64/1x1/s4/c1x1/r8"},
      {"64x64/1x1/s8/c1x1/r8", "64x64/1x1/s8/c1x1/r8 ", "must be a word"},
      {"64x64/1x1/s8/c1x1/r8", "064x64/1x1/s8/c1x1/r8", "must be spelled in full"},
      {"64x64/1x1/s8/c1x1/r8", "-64x64/1x1/s8/c1x1/r8", "block_m must be"},
      {"64x64/1x1/s8/c1x1/r8", "64x64/1x1/s32/c1x1/r8", "shared memory must be at most"},
      {"64x64/1x1/s8/c1x1/r8", "256x192/2x1/s2/c1x1/r8", "registers"},
      {"64x64/1x1/s8/c1x1/r8", "64x64/1x1/s8/c8x2/r8", "cluster_m, cluster_n and cluster_k"},
      {"64x64/1x1/s8/c1x1/r8", "64x64/1x1/s8/c1x1/r0", "raster_group must be"},
      {"64x64/1x1/s8/c1x1/r8", "2147483648x64/1x1/s8/c1x1/r8", "must look like"},
  };
  for (const auto& c : cases) {
    INFO(c.from << " -> " << c.to);
    const std::string text = replaced(good, c.from, c.to);
    if (*c.complaint == '\0') {
      CHECK_FALSE(refusal(text).empty());
      continue;
    }
    const TunedTable table = TunedTable::load(text, "test.json");
    INFO(table.first_rejection());
    CHECK(table.num_rejected() == 1);
    CHECK(table.file().entries.size() == 1);
    CHECK(contains(table.first_rejection(), c.complaint));
    CHECK(contains(table.first_rejection(), "test.json: entries["));
  }
}

TEST_CASE("an entry names at most as many tiles as a plan may have", "[tuned]") {
  const auto with_tiles = [](int count) {
    TunedEntry e{dense(), {}};
    for (int i = 0; i < count; ++i) {
      jit::Tile t = tile(kSmall);
      t.raster_group = 1 + i;
      e.intervals.push_back({i, i, t, i, 1.0, {}, 0});
    }
    return TunedTable::load(runtime::to_text(file_of({e})), "x");
  };
  CHECK(with_tiles(8).num_rejected() == 0);
  CHECK(contains(with_tiles(9).first_rejection(), "at most 8 different tiles, got 9"));
}

TEST_CASE("an entry's clusters fit into the GPU of its file", "[tuned]") {
  TunedFile file = file_of({entry()});
  file.num_sms = 1;
  file.entries[0].intervals[0].tile.cluster_n = 2;
  CHECK(contains(TunedTable::load(runtime::to_text(file), "x").first_rejection(),
                 "clusters of at most the 1 SMs"));
}

}  // namespace kiln::test
