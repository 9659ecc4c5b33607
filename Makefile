# SPDX-License-Identifier: BSD-3-Clause
#
# The short way. Meson does the work; see CONTRIBUTING.md for the long one.
#
#   make          build, with what is installed
#   make demo     set this machine up, build, run the demo
#   make check    set this machine up, then run all that CI runs
#   make bench    build, run the benchmarks
#   make conformance
#                 build, run Linux's own tests of device-private memory
#   make mutation plant each fault of test/mutations.txt; a test must notice
#   make clean    remove what the above made

BUILD = build/release

all: $(BUILD)/build.ninja
	ninja -C $(BUILD)

$(BUILD)/build.ninja:
	meson setup $(BUILD) --buildtype=release -Dtests=false

demo: setup-build all
	scripts/demo $(BUILD)

check: setup-check
	scripts/ci.sh

bench: all
	$(BUILD)/pgmap bench core
	$(BUILD)/pgmap bench map

conformance: setup-build all
	scripts/conformance $(BUILD) 6.12
	scripts/conformance $(BUILD) 6.1

mutation:
	scripts/ci.sh mutation

setup-%:
	scripts/setup $*

clean:
	rm -rf build

.PHONY: all demo check bench conformance mutation clean
