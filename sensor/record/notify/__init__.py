"""Who is told of an incident, when, and in what words: alerts -> incidents -> messages -> apprise."""
