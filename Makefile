# `make help` lists the targets. Each one sets up what it needs, on Debian 12 from nothing but git, make and root.

PREFIX     ?= /usr
SYSCONFDIR ?= /etc
DESTDIR    ?=
# Optional parts that `install` puts in: notify (apprise), gpu (NVML); `EXTRAS=` is none.
EXTRAS     ?= notify
LIBDIR      = $(PREFIX)/lib/hostbrake
UNITDIR     = $(PREFIX)/lib/systemd/system
SHAREDIR    = $(PREFIX)/share/hostbrake
DOCDIR      = $(PREFIX)/share/doc/hostbrake

CLANG        ?= clang
CLANG_FORMAT ?= clang-format
LLVM_STRIP   ?= llvm-strip
BPFTOOL      ?= bpftool
# Debian keeps bpftool and sshd where a plain user's PATH does not look.
export PATH  := $(PATH):/usr/sbin:/sbin:$(CURDIR)/build/nginx/usr/sbin
# The tests run nginx. Its package would start a server on port 80, so it is only unpacked.
NGINX        := $(if $(shell command -v nginx),,build/nginx/usr/sbin/nginx)

# And a browser, which is large: nothing but the tests waits for it.
BROWSER      := $(if $(shell command -v chromium-headless-shell || command -v chromium),,browser)

VENV    := .venv
BIN     := $(VENV)/bin
OBJECT  := sensor/kernel/hostbrake.bpf.o
SOURCES := $(wildcard bpf/*.bpf.c)
HEADERS := $(wildcard bpf/*.h)
PARTS   := $(SOURCES:bpf/%.bpf.c=build/bpf/%.bpf.o)

MACHINE    := $(shell uname -m)
BPF_ARCH   := $(or $(and $(filter x86_64,$(MACHINE)),x86),$(and $(filter aarch64,$(MACHINE)),arm64),$(MACHINE))
# <asm/types.h> lies in the multiarch directory, which clang does not search for the bpf target.
BPF_CFLAGS := -O2 -g -target bpf -mcpu=v3 -D__TARGET_ARCH_$(BPF_ARCH) -Wall -Werror -Ibpf \
              "-ffile-prefix-map=$(CURDIR)=." \
              -idirafter /usr/include/$(MACHINE)-linux-gnu

.DELETE_ON_ERROR:
.PHONY: help demo test test-unit test-kernel build run check bench fuzz install uninstall clean packages browser

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

demo: build ## the incident, staged in throwaway cgroups against a live sensor (root)
	$(BIN)/hostbrake demo

test: build $(NGINX) $(BROWSER) ## unit tests, and kernel tests where root and the kernel allow
	$(BIN)/pytest tests

test-unit: build ## only the tests that need neither root nor BPF
	$(BIN)/pytest tests/unit

test-kernel: build $(NGINX) ## only the tests against the live kernel (root)
	$(BIN)/pytest tests/kernel

build: $(VENV)/installed $(OBJECT) ## .venv/bin/hostbrake and the BPF object

run: build ## the sensor in the foreground, in monitor mode, alerts to the terminal (root)
	$(BIN)/hostbrake run --mode monitor --alerts -

check: build ## linters, types, formats, warnings; changes nothing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(CLANG_FORMAT) --dry-run -Werror $(SOURCES) $(HEADERS)
	for source in $(SOURCES); do $(CLANG) $(BPF_CFLAGS) -c $$source -o /dev/null || exit 1; done

bench: build ## the machine bare and with the sensor, side by side (root)
	$(BIN)/python -m bench

SECONDS = 120
fuzz: build ## hostile bytes for whatever reads them, for SECONDS=120
	$(BIN)/pip --disable-pip-version-check install -q -c constraints.txt --config-settings editable_mode=compat -e '.[dev,fuzz]'
	$(BIN)/python tests/fuzz --seconds $(SECONDS)

packages:
	@command -v dpkg-query >/dev/null || { echo "no dpkg here: packages.apt lists what must be installed"; exit 0; }; \
	missing=$$(sed 's/#.*//' packages.apt | while read -r name; do \
		[ -z "$$name" ] || dpkg-query -W -f '$${Status}' "$$name" 2>/dev/null | grep -q ' installed$$' || echo "$$name"; \
	done); \
	[ -n "$$missing" ] || exit 0; \
	[ "$$(id -u)" = 0 ] || { echo "missing packages; as root: apt-get install" $$missing >&2; exit 1; }; \
	apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -qy install --no-install-recommends $$missing

# Not every system has the package. HOSTBRAKE_REQUIRE_CHROMIUM=1 makes the tests fail then, else they are skipped.
browser: | packages
	@{ command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] && apt-get -q update && DEBIAN_FRONTEND=noninteractive \
		apt-get -qy install --no-install-recommends $$(sed 's/#.*//' packages-test.apt); } \
		|| echo "no Chromium could be installed: the report's page is not tested in a browser" >&2

build/nginx/usr/sbin/nginx: | packages
	@mkdir -p build/nginx
	cd build/nginx && { apt-get -q download nginx || { apt-get -q update && apt-get -q download nginx; }; } \
		&& dpkg-deb -x nginx_*.deb .

# PYTHON=… overrides; else Debian's own, else the first python3 on the PATH; either must be 3.10 or newer.
FIND_PYTHON = python=; for candidate in $(or $(PYTHON),/usr/bin/python3 python3); do \
	"$$candidate" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
		&& { python=$$candidate; break; }; done; \
	[ -n "$$python" ] || { echo "no Python 3.10 or newer with venv; set PYTHON=" >&2; exit 1; }

$(VENV)/installed: pyproject.toml constraints.txt | packages
	@[ -x $(BIN)/pip ] || { $(FIND_PYTHON); "$$python" -m venv $(VENV); }
	$(BIN)/pip --disable-pip-version-check install -q -c constraints.txt --config-settings editable_mode=compat -e '.[dev]'
	touch $@

build/bpf/%.bpf.o: bpf/%.bpf.c $(HEADERS) Makefile | packages
	@mkdir -p $(@D)
	$(CLANG) $(BPF_CFLAGS) -c $< -o $@

$(OBJECT): $(PARTS)
	$(BPFTOOL) gen object $@ $(PARTS)
	$(LLVM_STRIP) -g $@

OPTIONAL   = $(if $(EXTRAS),[$(EXTRAS)])
SELF       = '.$(OPTIONAL)'
TARGET_PIP = $(BIN)/pip --disable-pip-version-check --python "$(DESTDIR)$(LIBDIR)/bin/python3"

# The venv is filled under DESTDIR but runs from LIBDIR, so whatever records its own path is written anew.
install: build ## into DESTDIR and PREFIX (/usr); an existing sensor.yml is kept
	@[ $(words $(PREFIX)) -le 1 ] || { echo "PREFIX must not hold a blank: no script could start there" >&2; exit 1; }
	rm -rf build/lib "$(DESTDIR)$(LIBDIR)"
	install -d "$(DESTDIR)$(PREFIX)/bin" "$(DESTDIR)$(PREFIX)/lib" "$(DESTDIR)$(UNITDIR)"
	@$(FIND_PYTHON); "$$python" -m venv --without-pip "$(DESTDIR)$(LIBDIR)"
	$(TARGET_PIP) wheel -q -c constraints.txt -w "$(DESTDIR)$(LIBDIR)/wheels" $(SELF)
	$(TARGET_PIP) install -q --no-index --find-links "$(DESTDIR)$(LIBDIR)/wheels" --no-compile 'hostbrake$(OPTIONAL)'
	rm -r "$(DESTDIR)$(LIBDIR)/wheels"
	cd "$(DESTDIR)$(LIBDIR)/bin" && find . -type f -delete && { \
		printf '%s\n' '#!$(LIBDIR)/bin/python3 -I' 'import sys' 'from sensor.cli.main import main' \
			'sys.exit(main())' >hostbrake; chmod 755 hostbrake; }
	sed -i 's|^command = .*|command = python3 -m venv $(LIBDIR)|' "$(DESTDIR)$(LIBDIR)/pyvenv.cfg"
	"$(DESTDIR)$(LIBDIR)/bin/python3" -m compileall -q -s "$(DESTDIR)" -p / "$(DESTDIR)$(LIBDIR)/lib"
	ln -sfn ../lib/hostbrake/bin/hostbrake "$(DESTDIR)$(PREFIX)/bin/hostbrake"
	rm -rf "$(DESTDIR)$(SHAREDIR)/rules"
	install -d "$(DESTDIR)$(SHAREDIR)" && cp -rL --no-preserve=ownership rules "$(DESTDIR)$(SHAREDIR)/rules"
	install -d "$(DESTDIR)$(DOCDIR)/docs"
	install -m 644 README.md CONTRIBUTING.md "$(DESTDIR)$(DOCDIR)" && install -m 644 docs/*.md "$(DESTDIR)$(DOCDIR)/docs"
	install -d -m 755 $(addprefix "$(DESTDIR)$(SYSCONFDIR)/,hostbrake/agents.d" hostbrake/rules.d" logrotate.d")
	install -d -m 750 "$(DESTDIR)/var/log/hostbrake" "$(DESTDIR)/var/lib/hostbrake"
	[ -e "$(DESTDIR)$(SYSCONFDIR)/hostbrake/sensor.yml" ] \
		|| install -m 644 systemd/sensor.yml "$(DESTDIR)$(SYSCONFDIR)/hostbrake/sensor.yml"
	install -m 644 systemd/hostbrake.logrotate "$(DESTDIR)$(SYSCONFDIR)/logrotate.d/hostbrake"
	sed 's|/usr/bin/|$(PREFIX)/bin/|; s|/usr/share/|$(PREFIX)/share/|' systemd/hostbrake.service \
		>"$(DESTDIR)$(UNITDIR)/hostbrake.service"
	sed 's|/usr/bin/|$(PREFIX)/bin/|; s|/usr/share/|$(PREFIX)/share/|' systemd/hostbrake-drill.service \
		>"$(DESTDIR)$(UNITDIR)/hostbrake-drill.service"
	sed 's|/usr/share/|$(PREFIX)/share/|' systemd/hostbrake-drill.timer >"$(DESTDIR)$(UNITDIR)/hostbrake-drill.timer"
	@echo "installed; next: hostbrake check, then systemctl daemon-reload && \
	systemctl enable --now hostbrake hostbrake-drill.timer"

uninstall: ## what install put there, but not configuration, alerts and state
	rm -rf "$(DESTDIR)$(LIBDIR)" "$(DESTDIR)$(SHAREDIR)" "$(DESTDIR)$(DOCDIR)"
	rm -f "$(DESTDIR)$(PREFIX)/bin/hostbrake" "$(DESTDIR)$(UNITDIR)/hostbrake.service" \
		"$(DESTDIR)$(UNITDIR)/hostbrake-drill.service" "$(DESTDIR)$(UNITDIR)/hostbrake-drill.timer" \
		"$(DESTDIR)$(SYSCONFDIR)/logrotate.d/hostbrake"
	@echo "kept: $(SYSCONFDIR)/hostbrake, /var/log/hostbrake, /var/lib/hostbrake; remove them yourself if you mean to"

clean: ## what was built; .venv stays
	rm -rf build $(OBJECT) *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find sensor tests bench -name __pycache__ -type d -prune -exec rm -r {} +
