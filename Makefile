# `make demo` and `make test` do everything on a fresh machine; the rest is for developers.
PYTHON ?= python3.11
BIN := .venv/bin
PIP := -m pip install --quiet

.PHONY: docs setup demo demo-arm64 android-check test test-env check format lock proto proto-env device-env clean

setup: .venv/.ready

.venv/.ready: requirements.lock device_runtime/pyproject.toml export/pyproject.toml host/pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python $(PIP) -r requirements.lock
	$(BIN)/python $(PIP) --no-deps --no-build-isolation -e device_runtime -e export -e host
	touch $@

# What a phone has: no torch. tests/device_runtime run in it as well.
device-env: .venv-device/.ready

.venv-device/.ready: requirements-device.lock device_runtime/pyproject.toml
	test -x .venv-device/bin/python || $(PYTHON) -m venv .venv-device
	.venv-device/bin/python $(PIP) -r requirements-device.lock
	.venv-device/bin/python $(PIP) --no-deps --no-build-isolation -e device_runtime
	touch $@

# What only tests need: the partitioners and Ray, which are extras of the product.
test-env: setup .venv/.tested

.venv/.tested: .venv/.ready requirements-test.lock
	$(BIN)/python $(PIP) --no-deps -r requirements-test.lock
	touch $@

demo: setup
	$(BIN)/crowdlearn demo

# The same on phones of ARM, which run what a real phone would, under QEMU; weights and accuracy compared.
demo-arm64: setup
	$(BIN)/python -m benchmarks.android.demo

# What of the Android app can be checked without Android: compiled, dexed, linked, signed, installed on a virtual phone;
# its executor with real programs on a Java VM, and all of it where Android is played; its Python half. What is missing
# is told, with how to get it; what is fetched stays in the user's cache.
android-check: test-env
	$(BIN)/python -m benchmarks.android.app.apk build/crowdlearn-check.apk
	$(BIN)/python -m benchmarks.android.operators
	CROWDLEARN_ANDROID_CACHE=$$($(BIN)/python -c "from crowdlearn.testing import cache_home; print(cache_home() / 'android')") \
		$(BIN)/python -m pytest -rs tests/executors tests/benchmarks/test_android.py tests/benchmarks/test_android_app.py \
		tests/benchmarks/test_app_process.py tests/device_runtime/app tests/system/test_app_on_phones.py \
		tests/system/test_app_survival.py

test: test-env device-env proto-env
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --durations 20 $(ARGS)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy -p crowdlearn_device -p crowdlearn_export -p crowdlearn_host -p crowdlearn -p benchmarks -p tests
	$(BIN)/python -m tests.house

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: proto-env
	.venv-proto/bin/python -m grpc_tools.protoc -I device_runtime --python_out=device_runtime \
		--pyi_out=device_runtime crowdlearn_device/protocol/wire.proto

# The compiler of wire.proto: an older one than the protobuf of .venv, and so in an environment of its own.
proto-env: .venv-proto/.ready

.venv-proto/.ready: requirements-proto.lock
	test -x .venv-proto/bin/python || $(PYTHON) -m venv .venv-proto
	.venv-proto/bin/python $(PIP) --no-deps -r requirements-proto.lock
	touch $@

lock: setup
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu//' > requirements.lock.new
	mv requirements.lock.new requirements.lock

# The site, with reference pages made from the code, in site/.
docs: setup .venv-docs/.ready
	$(BIN)/python -m tests.house.reference
	.venv-docs/bin/mkdocs build --strict --quiet

.venv-docs/.ready: requirements-docs.lock
	test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python $(PIP) -r requirements-docs.lock
	touch $@

clean:
	rm -rf .venv .venv-docs .venv-device .venv-proto .mypy_cache .ruff_cache .pytest_cache
