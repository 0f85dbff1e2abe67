"""Small models, graphs and tables of cases that tests are run on."""
