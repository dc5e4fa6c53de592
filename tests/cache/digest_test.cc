#include <algorithm>
#include <cstring>
#include <set>

#include "cache/digest.h"
#include "cache/sha256.h"
#include "support.h"
#include "tests/support/catch.h"

namespace kiln::cache::test {
namespace {

std::string hash_with(CompressFn compress, std::string_view text, std::size_t piece) {
  Sha256 hash(compress);
  for (std::size_t i = 0; i < text.size(); i += piece) {
    hash.update(std::as_bytes(std::span(text.substr(i, piece))));
  }
  return to_hex(hash.finish());
}

struct Vector {
  std::string message;
  const char* digest;
};

// From FIPS 180-4's examples and NIST's byte-oriented test vectors.
std::vector<Vector> published_vectors() {
  return {
      {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
      {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmno"
       "ijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
       "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"},
      {"\xbd", "68325720aabd7c82f30f554b313d0570c95accbb7dc4b5aae11204c08ffe732b"},
      {"\xc9\x8c\x8e\x55", "7abc22c0ae5af26ce93dbb94433a0e0b2e119d014f8e7f65bd56c61ccccd9504"},
      {std::string(55, '\0'), "02779466cdec163811d078815c633f21901413081449002f24aa3e80f0b88ef7"},
      {std::string(56, '\0'), "d4817aa5497628e7c77e6b606107042bbba3130888c5f47a375e6179be789fbb"},
      {std::string(57, '\0'), "65a16cb7861335d5ace3c60718b5052e44660726da4cd13bb745381b235a1785"},
      {std::string(64, '\0'), "f5a5fd42d16a20302798ef6ed309979b43003d2320d9f0e8ea9831a92759fb4b"},
      {std::string(1000, '\0'), "541b3e9daa09b20bf85fa273e5cbd3e80185aa4ec298e765db87742b70138a53"},
      {std::string(1000, 'A'), "c2e686823489ced2017f6059b8b239318b6364f6dcd835d0a519105a1eadd6e4"},
      {std::string(1'000'000, 'a'),
       "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
  };
}

}  // namespace

TEST_CASE("SHA-256 gives the published digests", "[cache][digest]") {
  for (const Vector& vector : published_vectors()) {
    CAPTURE(vector.message.size());
    CHECK(to_hex(sha256(vector.message)) == vector.digest);
    CHECK(hash_with(compress_portable, vector.message, vector.message.size() + 1) == vector.digest);
  }
}

TEST_CASE("SHA-256 does not depend on how the input is cut into pieces", "[cache][digest]") {
  std::string text(1000, ' ');
  Random random(7);
  for (char& c : text) c = static_cast<char>(random.next());
  const std::string whole = to_hex(sha256(text));
  for (std::size_t piece = 1; piece <= 200; ++piece) {
    CHECK(hash_with(compress_best(), text, piece) == whole);
  }
}

TEST_CASE("the portable and the accelerated SHA-256 agree", "[cache][digest]") {
  const CompressFn accelerated = compress_accelerated();
  if (accelerated == nullptr) KILN_SKIP("this CPU has no SHA instructions that this build uses");
  for (const Vector& vector : published_vectors()) {
    CHECK(hash_with(accelerated, vector.message, 100'000) == vector.digest);
  }
  Random random(11);
  for (std::size_t size = 0; size < 600; ++size) {
    std::string text(size, ' ');
    for (char& c : text) c = static_cast<char>(random.next());
    CHECK(hash_with(accelerated, text, size + 1) == hash_with(compress_portable, text, size + 1));
  }
}

TEST_CASE("a digest's text reads back, and nothing else reads as a digest", "[cache][digest]") {
  const Digest digest = sha256("abc");
  CHECK(digest_from_hex(to_hex(digest)) == digest);
  std::string hex = to_hex(digest);
  CHECK_FALSE(digest_from_hex(hex.substr(1)));
  CHECK_FALSE(digest_from_hex(hex + "0"));
  CHECK_FALSE(digest_from_hex(""));
  hex[5] = 'A';
  CHECK_FALSE(digest_from_hex(hex));
  hex[5] = 'g';
  CHECK_FALSE(digest_from_hex(hex));
  hex[5] = '\0';
  CHECK_FALSE(digest_from_hex(hex));
}

TEST_CASE("the key text of a fixed field list never changes", "[cache][key]") {
  KeyBuilder key("kiln-test-1");
  key.add("layout", "dense").add("n", std::int64_t{4096});
  key.add("delta", std::int64_t{-1}).add("", "");
  CHECK(key.text() == "11:kiln-test-1\n6:layout=s5:dense\n1:n=i4:4096\n5:delta=i2:-1\n0:=s0:\n");
  CHECK(to_hex(key.digest()) ==
        "b599ee81f48d6e4ed8ec2c3bac1627b02685fa9ce4b287f346fca0fa6090b5ee");
}

TEST_CASE("moving bytes between fields always changes the key", "[cache][key]") {
  // Every way to cut short texts of these characters into a schema and up to two fields, plus
  // texts that imitate the encoding itself.
  const std::vector<std::string> parts = {"",  "a",   "aa",  "1",    "1:",       "=",        "\n",
                                          "s", "i1:", "0:",  "1:a",  "=s1:a\n",  "1:a=s1:a", "aaa",
                                          ":", "=s",  "=i1", "1:1",  "\n1:a=s0:", "2:aa"};
  std::set<std::string> texts;
  std::size_t count = 0;
  for (const std::string& schema : parts) {
    texts.insert(KeyBuilder(schema).text());
    ++count;
    for (const std::string& label : parts) {
      for (const std::string& value : parts) {
        texts.insert(KeyBuilder(schema).add(label, value).text());
        ++count;
        for (const std::string& label2 : {parts[0], parts[1], parts[4], parts[12]}) {
          for (const std::string& value2 : {parts[0], parts[2], parts[11], parts[18]}) {
            texts.insert(KeyBuilder(schema).add(label, value).add(label2, value2).text());
            ++count;
          }
        }
      }
    }
  }
  CHECK(texts.size() == count);
}

TEST_CASE("an integer and its decimal text are different values", "[cache][key]") {
  const Digest integer = KeyBuilder("s").add("n", std::int64_t{12}).digest();
  CHECK(integer != KeyBuilder("s").add("n", "12").digest());
}

TEST_CASE("the order of fields is part of the key", "[cache][key]") {
  CHECK(KeyBuilder("s").add("a", "1").add("b", "2").digest() !=
        KeyBuilder("s").add("b", "2").add("a", "1").digest());
}

}  // namespace kiln::cache::test
