// What tuned tables say of a problem: exact, nearest or none.
#include <optional>

#include "tests/runtime/tuned_support.h"

namespace kiln::test {

TEST_CASE("the exact entry is found whatever the alignment and batch_invariant", "[tuned]") {
  const TunedTable table = table_of({entry(), entry(dense(4608)), entry(contiguous(8))});
  const auto dense_found = table.find(dense(), kMachine);
  CHECK(dense_found.match == TunedMatch::kExact);
  CHECK(dense_found.intervals == entry().intervals);
  CHECK(dense_found.why == "exact entry n=4096 k=7168 of test.json");
  jit::Problem p = contiguous(8, 1);
  p.batch_invariant = true;
  CHECK(table.find(p, kMachine).match == TunedMatch::kExact);
  CHECK(table.find(p, kMachine).why == "exact entry n=4096 k=7168 groups=8 of test.json");
}

TEST_CASE("an entry that is near in N, K and groups is the nearest, and what is far is none",
          "[tuned]") {
  const TunedTable table = table_of({entry(), entry(dense(4608)), entry(contiguous(8))});
  const auto match = [&](const jit::Problem& p) { return table.find(p, kMachine).match; };
  CHECK(match(dense(4096 + 8)) == TunedMatch::kNearest);
  CHECK(contains(table.find(dense(4200), kMachine).why, "nearest entry n=4096"));
  CHECK(contains(table.find(dense(4496), kMachine).why, "nearest entry n=4608"));
  CHECK(match(dense(4096, 7168 / 2)) == TunedMatch::kNearest);
  CHECK(match(dense(4096, 7168 / 2 - 16)) == TunedMatch::kNone);
  CHECK(match(dense(4608 * 5 / 4)) == TunedMatch::kNearest);
  CHECK(match(dense(4608 * 5 / 4 + 8)) == TunedMatch::kNone);
  CHECK(match(contiguous(16)) == TunedMatch::kNearest);
  CHECK(match(contiguous(17)) == TunedMatch::kNone);
  jit::Problem labels = contiguous(8);
  labels.group_form = jit::GroupForm::kLabels;
  CHECK(match(labels) == TunedMatch::kNearest);
}

TEST_CASE("nothing is found for another kind of problem, another GPU or no problem at all",
          "[tuned]") {
  const TunedTable table = table_of({entry()});
  const auto none = [&](const jit::Problem& p, jit::Machine machine = kMachine) {
    const auto found = table.find(p, machine);
    return found.match == TunedMatch::kNone && found.intervals.empty() && !found.why.empty();
  };
  REQUIRE_FALSE(none(dense()));
  CHECK(none(dense(), {131}));
  jit::Problem p = dense();
  p.out = jit::OutputType::kF32;
  CHECK(none(p));
  p.accumulate = true;
  CHECK(none(p));
  p = dense();
  p.a = jit::Fp8Type::kE5m2;
  CHECK(none(p));
  p = dense();
  p.sfa_major = jit::ScaleMajor::kM;
  p.scaling = jit::Scaling::k1d1d;
  CHECK(none(p));
  CHECK(none(contiguous(1)));
  CHECK(none(dense(0, 0)));
  CHECK(none(dense(-4096, 7168)));
}

TEST_CASE("a nearest entry's tile has fewer stages where this problem has less room", "[tuned]") {
  // It just fits beside the table of up to 256 groups; that of up to 1024 is larger.
  TunedEntry tight = entry(contiguous(256));
  const jit::Problem more = contiguous(512);
  std::optional<jit::Tile> largest;
  for (jit::Tile t = tile(kSmall); t.block_n <= 256 && !largest; t.block_n += 8) {
    for (t.stages = 2; t.stages <= 32 && !largest; ++t.stages) {
      if (jit::is_legal(t, contiguous(256)) && !jit::is_legal(t, more)) largest = t;
    }
  }
  REQUIRE(largest);
  tight.intervals[0].tile = *largest;
  const TunedTable table = table_of({tight});
  CHECK(table.find(contiguous(256), kMachine).match == TunedMatch::kExact);
  CHECK(table.find(contiguous(250), kMachine).intervals[0].tile == *largest);
  const auto found = table.find(more, kMachine);
  CHECK(found.match == TunedMatch::kNearest);
  jit::Tile expected = *largest;
  --expected.stages;
  CHECK(found.intervals[0].tile == expected);
}

TEST_CASE("an entry for the other major of row scales is near", "[tuned]") {
  jit::Problem row = dense();
  row.sfa_major = jit::ScaleMajor::kRow;
  jit::Problem m = dense();
  m.sfa_major = jit::ScaleMajor::kM;
  CHECK(table_of({entry(m)}).find(row, kMachine).match == TunedMatch::kNearest);
  CHECK(table_of({entry(m), entry(row)}).find(row, kMachine).match == TunedMatch::kExact);
  CHECK(table_of({entry(m)}).find(m, kMachine).match == TunedMatch::kExact);
}

TEST_CASE("the same N and K with the other major of row scales is nearer than another N",
          "[tuned]") {
  jit::Problem row = dense(2048);
  row.sfa_major = jit::ScaleMajor::kRow;
  jit::Problem m = row, other_n = row;
  m.sfa_major = jit::ScaleMajor::kM;
  other_n.n = 2112;
  const auto found = table_of({entry(other_n), entry(m)}).find(row, kMachine);
  CHECK(contains(found.why, "nearest entry n=2048"));
}

TEST_CASE("of several tables the first exact match wins, then the first nearest", "[tuned]") {
  TunedEntry other = entry();
  other.intervals[0].us = 99;
  TunedTables tables;
  CHECK(tables.find(dense(), kMachine).why == "no tuned table for 132 SMs");
  tables.add(table_of({entry(dense(4104))}, "near.json"));
  tables.add(table_of({other}, "second.json"));
  tables.add(table_of({entry()}, "third.json"));
  const auto found = tables.find(dense(), kMachine);
  CHECK(found.match == TunedMatch::kExact);
  CHECK(contains(found.why, "second.json"));
  CHECK(found.intervals == other.intervals);
  CHECK(contains(tables.find(dense(4088), kMachine).why, "near.json"));
  const auto none = tables.find(dense(64), kMachine);
  CHECK(none.match == TunedMatch::kNone);
  CHECK(contains(none.why, "near.json"));
  CHECK(contains(none.why, "third.json"));
}

}  // namespace kiln::test
