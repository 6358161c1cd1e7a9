"""``python -m fraudgate``."""

from fraudgate.cli import main

raise SystemExit(main())
