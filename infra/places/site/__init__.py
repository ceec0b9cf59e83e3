"""A cluster of machines: made by Pulumi, configured by Ansible, reached by SSH."""
